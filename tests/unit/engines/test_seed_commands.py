"""Every command and file that TensorRT-LLM's disaggregated serving guide shows comes out of one spec, word for word.

The quotations below are the guide's. Ours are bound as they are on one machine; what may differ is a path, and in the multi-node
commands a port and the srun options of the site. Ports of the single-node commands are equal to the guide's without any help.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import trtllm_models as models
import yaml
from engine_view import EXAMPLES, front_door, on_localhost, planned, visible, words, worker

from disagg_launch import engines, render, templating
from disagg_launch.launch import bind

SEED = EXAMPLES / "seed"

STANDARD = r"""
CUDA_VISIBLE_DEVICES=0 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8001 \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml &> log_ctx_0 &

CUDA_VISIBLE_DEVICES=1 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8002 \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml &> log_ctx_1 &

CUDA_VISIBLE_DEVICES=2 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8003 \
    --extra_llm_api_options ./gen_extra-llm-api-config.yaml &> log_gen_0 &

trtllm-serve disaggregated -c disagg_config.yaml
"""
LLMAPI_LAUNCH = r"""
CUDA_VISIBLE_DEVICES=0 trtllm-llmapi-launch trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8001 \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml &> log_ctx_0 &

CUDA_VISIBLE_DEVICES=1 trtllm-llmapi-launch trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8002 \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml &> log_ctx_1 &

CUDA_VISIBLE_DEVICES=2 trtllm-llmapi-launch trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8003 \
    --extra_llm_api_options ./gen_extra-llm-api-config.yaml &> log_gen_0 &

trtllm-llmapi-launch trtllm-serve disaggregated -c disagg_config.yaml
"""
MIXED_PRECISION = r"""
CUDA_VISIBLE_DEVICES=0 trtllm-serve meta-llama/Llama-3.1-8B-Instruct \
    --host localhost --port 8001 \
    --server_role CONTEXT \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml \
    --metadata_server_config_file ./metadata_config.yaml &> log_ctx_0 &

CUDA_VISIBLE_DEVICES=1 trtllm-serve meta-llama/Llama-3.1-8B-Instruct \
    --host localhost --port 8002 \
    --server_role CONTEXT \
    --extra_llm_api_options ./ctx_extra-llm-api-config.yaml \
    --metadata_server_config_file ./metadata_config.yaml &> log_ctx_1 &

CUDA_VISIBLE_DEVICES=2 trtllm-serve ./weights/Llama-3.1-8B-Instruct-FP8-KV-BF16 \
    --host localhost --port 8003 \
    --server_role GENERATION \
    --extra_llm_api_options ./gen_extra-llm-api-config.yaml \
    --metadata_server_config_file ./metadata_config.yaml &> log_gen_0 &

trtllm-serve disaggregated -c disagg_config.yaml -m ./metadata_config.yaml
"""
METADATA_SERVER = r"""
CUDA_VISIBLE_DEVICES=0 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host localhost --port 8001 --server_role CONTEXT --extra_llm_api_options ./ctx_extra-llm-api-config.yaml --metadata_server_config_file ./metadata_config.yaml &> log_ctx_0 &

CUDA_VISIBLE_DEVICES=1 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host localhost --port 8002 --server_role CONTEXT --extra_llm_api_options ./ctx_extra-llm-api-config.yaml --metadata_server_config_file ./metadata_config.yaml &> log_ctx_1 &

CUDA_VISIBLE_DEVICES=2 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --host localhost --port 8003 --server_role GENERATION --extra_llm_api_options ./gen_extra-llm-api-config.yaml --metadata_server_config_file ./metadata_config.yaml &> log_gen_0 &

trtllm-serve disaggregated -c disagg_config.yaml -m ./metadata_config.yaml
"""  # noqa: E501
ONE_MORE_SERVER = r"""
CUDA_VISIBLE_DEVICES=3 trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 \
    --host localhost --port 8004 \
    --server_role GENERATION \
    --extra_llm_api_options ./gen_extra-llm-api-config.yaml \
    --metadata_server_config_file ./metadata_config.yaml &> log_gen_0 &
"""
MULTI_NODE = r"""
srun -A <account> -p <partition> -t <time> \
    -N 2 --ntasks-per-node=4 \
    --container-image=<container_image> \
    --container-mounts=<mount_paths> \
    --mpi=pmix \
    bash -c "trtllm-llmapi-launch trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --tp_size 8 --host 0.0.0.0 --port $PORT --extra_llm_api_options $WORK/ctx_extra-llm-api-config.yaml"

srun -A <account> -p <partition> -t <time> \
    -N 1 --ntasks-per-node=4 \
    --container-image=<container_image> \
    --container-mounts=<mount_paths> \
    --mpi=pmix \
    bash -c "trtllm-llmapi-launch trtllm-serve TinyLlama/TinyLlama-1.1B-Chat-v1.0 --tp_size 4 --host 0.0.0.0 --port $PORT --extra_llm_api_options $WORK/gen_extra-llm-api-config.yaml"

srun -A <account> -p <partition> -t <time> \
    -N 1 --ntasks-per-node=1 \
    --container-image=<container_image> \
    --container-mounts=<mount_paths> \
    --mpi=pmix \
    bash -c "trtllm-llmapi-launch trtllm-serve disaggregated -c $WORK/disagg_config.yaml"
"""  # noqa: E501
QUANTIZE = r"""
python $MODELOPT_ROOT/examples/llm_ptq/hf_ptq.py \
    --pyt_ckpt_path=meta-llama/Llama-3.1-8B-Instruct \
    --export_path=./weights/Llama-3.1-8B-Instruct-FP8-KV-BF16 \
    --sparsity_fmt=dense \
    --qformat=fp8 \
    --calib_size=512 \
    --batch_size=8 \
    --inference_tensor_parallel=1 \
    --inference_pipeline_parallel=1 \
    --kv_cache_qformat none \
    --export_fmt=hf
"""
MPI_WORKER = "mpirun -n <total_num_ranks> trtllm-serve disaggregated_mpi_worker -c disagg_config.yaml"

CTX_YAML = """
disable_overlap_scheduler: True
cache_transceiver_config:
  backend: UCX
  max_tokens_in_buffer: 2048
"""
GEN_YAML = """
cache_transceiver_config:
  backend: UCX
  max_tokens_in_buffer: 2048
"""
DISAGG_CONFIG = """
hostname: localhost
port: 8000
backend: pytorch
context_servers:
  num_instances: 2
  urls:
    - "localhost:8001"
    - "localhost:8002"
generation_servers:
  num_instances: 1
  urls:
    - "localhost:8003"
"""
MPI_DISAGG_CONFIG = """
hostname: localhost
port: 8000
model: TinyLlama/TinyLlama-1.1B-Chat-v1.0
backend: "pytorch"
disable_overlap_scheduler: True
context_servers:
  num_instances: 2
  tensor_parallel_size: 1
  pipeline_parallel_size: 1
  kv_cache_config:
    free_gpu_memory_fraction: 0.9
  cache_transceiver_config:
    backend: UCX
  urls:
    - "localhost:8001"
    - "localhost:8002"
generation_servers:
  num_instances: 1
  tensor_parallel_size: 1
  pipeline_parallel_size: 1
  cache_transceiver_config:
    backend: UCX
  urls:
    - "localhost:8003"
"""
METADATA_CONFIG = """
hostname: "localhost"
port: 2379
health_check_timeout: 5.0
refersh_interval: 10.0
"""

# Where the guide has its files, and where a run folder has them.
PATHS = {
    "{run}/configs/ctx.yaml": "./ctx_extra-llm-api-config.yaml",
    "{run}/configs/gen.yaml": "./gen_extra-llm-api-config.yaml",
    "{run}/configs/metadata_config.yaml": "./metadata_config.yaml",
    "{run}/configs/disagg_config.yaml": "disagg_config.yaml",
}


def commands(quoted: str) -> list[list[str]]:
    """The guide's commands as words, without where their output goes."""
    joined = quoted.replace("\\\n", " ")
    return [shlex.split(re.sub(r" &> \S+ &$", "", line)) for line in joined.splitlines() if line.strip()]


def ours(name: str) -> list[list[str]]:
    """What the example renders, in the guide's order and with the guide's paths."""
    topology, plan = planned(SEED / name)
    out = []
    for one in plan.instances:
        made = worker(topology, plan, one.name)
        out.append([f"CUDA_VISIBLE_DEVICES={visible(plan, made)}", *words(made.argv, on_localhost(plan, one))])
    out.append(words(front_door(topology, plan)[0].argv, on_localhost(plan)))
    return [[PATHS.get(word, word) for word in command] for command in out]


@pytest.mark.parametrize(
    ("example", "quoted"),
    [
        ("standard.yaml", STANDARD),
        ("llmapi-launch.yaml", LLMAPI_LAUNCH),
        ("mixed-precision.yaml", MIXED_PRECISION),
        ("metadata-server.yaml", METADATA_SERVER),
    ],
)
def test_single_node_commands(example: str, quoted: str) -> None:
    assert ours(example) == commands(quoted)


def test_one_more_server_is_one_more_instance() -> None:
    text = (SEED / "metadata-server.yaml").read_text()
    grown = text.replace("generation_servers:\n  num_instances: 1", "generation_servers:\n  num_instances: 2")
    topology, plan = planned(grown.replace("gpus_per_node: 3", "gpus_per_node: 4"))
    made = worker(topology, plan, "gen1")
    found = [f"CUDA_VISIBLE_DEVICES={visible(plan, made)}", *words(made.argv, on_localhost(plan, plan.instance("gen1")))]
    assert [PATHS.get(word, word) for word in found] == commands(ONE_MORE_SERVER)[0]


def test_multi_node_commands() -> None:
    topology, plan = planned(SEED / "multi-node.yaml")
    files = {one.path: one.text for one in render.render(topology, plan, "slurm", "python3")}
    context, generation, router = commands(MULTI_NODE)
    for name, quoted in (("ctx0", context), ("gen0", generation)):
        made, one = worker(topology, plan, name), plan.instance(name)
        found = [PATHS.get(word, word).replace("./", "$WORK/") for word in words(made.argv, on_localhost(plan, one, host="0.0.0.0"))]
        assert [word.replace(str(one.port), "$PORT") for word in found] == shlex.split(quoted[-1])
        step = shlex.split(str(files[f"steps/{name}.sh"]), comments=True)
        nodes, tasks = int(quoted[quoted.index("-N") + 1]), int(next(w for w in quoted if "ntasks-per" in w).split("=")[1])
        assert {"srun", f"--nodes={nodes}", f"--ntasks={nodes * tasks}", "--mpi=pmix"} <= set(step)
    door = words(front_door(topology, plan)[0].argv)
    assert door == shlex.split(router[-1].replace("$WORK/", "{run}/configs/"))


def test_quantize_command() -> None:
    topology, _ = planned(SEED / "mixed-precision.yaml")
    (script,) = engines.load("trtllm").prepare(topology)
    found = shlex.split(str(script.text).split("\npython ")[1].replace("\\\n", " "))
    assert ["python", *found] == commands(QUANTIZE)[0]


def test_mpi_worker_command() -> None:
    topology, plan = planned(SEED / "mpi-worker.yaml")
    quoted = shlex.split(MPI_WORKER)
    for one in plan.instances:
        found = words(worker(topology, plan, one.name).argv)
        assert [PATHS.get(word, word) for word in found] == quoted[3:]
    files = {one.path: str(one.text) for one in render.render(topology, plan, "mpirun", "python3") if one.path.startswith("steps/")}
    (step,) = files.values()
    found = shlex.split(step, comments=True)
    assert found[found.index("-n") + 1] == "3" == str(len(plan.ranks))


@pytest.mark.parametrize(("path", "quoted"), [("configs/ctx.yaml", CTX_YAML), ("configs/gen.yaml", GEN_YAML)])
def test_worker_yaml(path: str, quoted: str) -> None:
    topology, plan = planned(SEED / "standard.yaml")
    text = bind(engines.load("trtllm").files(topology, plan)[path], on_localhost(plan))
    # also the order: disable_overlap_scheduler, which is added, comes first as in the guide
    assert list(yaml.safe_load(text).items()) == list(yaml.safe_load(quoted).items())


def test_disagg_config() -> None:
    topology, plan = planned(SEED / "standard.yaml")
    text = bind(front_door(topology, plan)[1]["configs/disagg_config.yaml"], on_localhost(plan))
    assert list(yaml.safe_load(text).items()) == list(yaml.safe_load(DISAGG_CONFIG).items())


def test_mpi_worker_disagg_config(tmp_path: Path) -> None:
    """Equal as upstream reads it: what stands at the top of the guide's file is inherited by both sections."""
    topology, plan = planned(SEED / "mpi-worker.yaml")
    text = bind(engines.load("trtllm").files(topology, plan)["configs/disagg_config.yaml"], on_localhost(plan))
    found, quoted = tmp_path / "ours.yaml", tmp_path / "guide.yaml"
    found.write_text(text)
    quoted.write_text(MPI_DISAGG_CONFIG)
    assert models.router_config(str(found)) == models.router_config(str(quoted))


def test_metadata_config() -> None:
    """The guide's file lacks the key `server_type` and misspells another, so the program it is for refuses it; ours is what was meant."""
    with pytest.raises(TypeError):
        models.Metadata(**yaml.safe_load(METADATA_CONFIG))
    topology, plan = planned(SEED / "metadata-server.yaml")
    text = bind(engines.load("trtllm").files(topology, plan)["configs/metadata_config.yaml"], on_localhost(plan))
    meant = METADATA_CONFIG.replace("refersh", "refresh") + "server_type: etcd\n"
    assert models.Metadata(**yaml.safe_load(text)) == models.Metadata(**yaml.safe_load(meant))


def test_disagg_cluster_is_the_same_for_workers_and_router() -> None:
    topology, plan = planned(SEED / "discovery-http.yaml")
    door = yaml.safe_load(bind(front_door(topology, plan)[1]["configs/disagg_config.yaml"], on_localhost(plan)))
    workers = engines.load("trtllm").files(topology, plan)
    for path in ("configs/ctx.yaml", "configs/gen.yaml"):
        assert yaml.safe_load(bind(workers[path], on_localhost(plan)))["disagg_cluster"] == door["disagg_cluster"]
    assert door["disagg_cluster"]["cluster_uri"] == "http://localhost:8000"
    # the guide: "the context/generation_servers section of disaggregated server must be removed"
    assert not {"context_servers", "generation_servers"} & set(door)
    argv = words(worker(topology, plan, "ctx0").argv)
    assert argv[argv.index("--server_role") + 1] == "CONTEXT"


def test_a_quoted_script_cannot_be_made_to_run_something_else() -> None:
    text = (SEED / "mixed-precision.yaml").read_text().replace("./weights/Llama-3.1-8B-Instruct-FP8-KV-BF16", "'x; touch /tmp/pwned $(id)'")
    (script,) = engines.load("trtllm").prepare(planned(text)[0])
    assert f"--export_path={templating.quote('x; touch /tmp/pwned $(id)')}" in str(script.text)
