"""The stand-ins refuse what the real programs refuse: a stand-in that took everything would make the end-to-end tests worthless."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import flag_table
import pytest
import ray_run
import serving
import sglang_serve
import trtllm_launch
import trtllm_models as models
import trtllm_serve
import vllm_serve

from disagg_launch.engines import flags

GOOD = "disable_overlap_scheduler: true\ncache_transceiver_config: {backend: UCX}\n"
PROGRAMS = {
    "trtllm-serve": trtllm_serve.called,
    "trtllm-llmapi-launch": trtllm_launch.main,
    "vllm": vllm_serve.main,
    "sglang": sglang_serve.main,
    "ray": ray_run.main,
}
Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What a stand-in says on its way out; it has to leave with an error and may not have started anything."""

    def started(*_: object) -> None:
        raise AssertionError("it was taken, and started")

    def call(*argv: str, **environ: str) -> str:
        for name, value in {"CUDA_VISIBLE_DEVICES": "0", **environ}.items():
            monkeypatch.setenv(name, value)
        for starting in ("become", "start"):
            monkeypatch.setattr(serving, starting, started)
        with pytest.raises(SystemExit) as left:
            sys.exit(PROGRAMS[argv[0]](list(argv[1:])))
        assert left.value.code, "it left as if all were well"
        return f"{capsys.readouterr()} {left.value}"

    return call


def test_vllm_s_switches_have_both_forms() -> None:
    """Read from the wheel, where some are declared in a roundabout way."""
    parser = flag_table.parser("vllm serve", "vllm.json")
    for key in ("enable_prefix_caching", "enable_chunked_prefill", "enforce_eager", "async_scheduling"):
        for value in (True, False):
            found = parser.parse_args(list(flags.words({key: value}, negative="no-")))
            assert getattr(found, key) is value
    assert parser.parse_args(["--max-num-seqs", "8"]).max_num_seqs == 8


def test_the_planner_knows_the_flags_that_the_stand_in_takes() -> None:
    taken = {name for names, _ in trtllm_serve.SERVE for name in names if name.startswith("--")}
    assert set(flags.table("trtllm")["flags"]) == taken


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("trtllm-serve", "m", "--server-role", "CONTEXT"), "No such option"),
        (("trtllm-serve", "m", "--port", "eight"), "not a valid integer"),
        (("trtllm-serve", "m", "--backend", "onnx"), "is not one of"),
        (("trtllm-serve", "m", "--server_role", "PREFILL"), "Invalid server role"),
        (("trtllm-serve", "m", "--port"), "requires an argument"),
        (("trtllm-serve", "m", "--extra_llm_api_options", "/nowhere.yaml"), "does not exist"),
        (("trtllm-serve", "m", "--disagg_cluster_uri", "http://h:1"), "server_role is required"),
        (("trtllm-serve", "m", "--tp_size", "2"), "Only 1 GPUs are available, but 2 are required"),
        (("trtllm-serve", "disaggregated", "-x"), "No such option"),
        (("trtllm-llmapi-launch",), "Usage"),
        (("vllm", "serve", "m", "--tensor-parallel", "1"), "unrecognized arguments"),
        (("vllm", "serve", "m", "--tensor-parallel-size", "2"), "does not equal the 1 visible GPUs"),
        (("vllm", "serve", "m", "--kv-transfer-config", '{"kv_conector": "NixlConnector"}'), "unexpected keyword argument kv_conector"),
        (("vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "Nixl", "kv_role": "kv_both"}'), "Unsupported connector type"),
        (("vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "NixlConnector"}'), "Unsupported kv_role"),
        (("vllm", "serve", "m", "--nnodes", "2", "--node-rank", "2", "--tensor-parallel-size", "2"), "must be between 0 and 1"),
        (("sglang", "serve", "--model-path", "m", "--disaggregation-mode", "context"), "invalid choice"),
        (("sglang", "serve", "--model-path", "m", "--tp-size", "3", "--nnodes", "2"), "must be divisible by number of nodes"),
        (("sglang", "serve", "--port", "1"), "required: --model-path"),
        (("vllm", "serve", "m", "--tensor-parallel-size", "2", "--distributed-executor-backend", "ray"), "number of required GPUs exceeds"),
        (("ray", "run"), "No such command"),
        (("ray", "symmetric-run", "--min-nodes", "2", "--", "vllm"), "Missing option '--address'"),
        (("ray", "symmetric-run", "--address", "h:1", "--min_nodes", "2", "--", "vllm"), "No such option"),
        (("ray", "symmetric-run", "--address", "h:1", "--num-gpus", "two", "--", "vllm"), "not a valid integer"),
        (("ray", "symmetric-run", "--address", "h:1", "--num-gpus", "2", "--", "vllm"), "CUDA_VISIBLE_DEVICES contains 1"),
        (("ray", "symmetric-run", "--address", "h", "--", "vllm"), "Invalid address format"),
        (("ray", "symmetric-run", "--address", "h:1", "--port=2", "--", "vllm"), "Cannot use --port"),
        (("ray", "symmetric-run", "--address", "h:1", "--include-dashboard=false", "--", "vllm"), "only be specified when starting head"),
        (("ray", "symmetric-run", "--address", "h:1", "vllm"), "No separator"),
        (("ray", "symmetric-run", "--address", "h:1", "--"), "No entrypoint"),
    ],
)
def test_refused_on_the_command_line(argv: tuple[str, ...], said: str, refused: Refused) -> None:
    assert said in refused(*argv)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (GOOD + "max_batchsize: 3\n", "Extra inputs are not permitted"),
        (GOOD + "max_batch_size: many\n", "valid integer"),
        ("disable_overlap_scheduler: true\ncache_transceiver_config: {backend: IB}\n", "Input should be"),
        ("disable_overlap_scheduler: true\ncache_transceiver_config: {backend: UCX, kv_transfer_timeout_ms: 0}\n", "greater than 0"),
        ("cache_transceiver_config: {backend: UCX}\n", "overlap scheduler"),
        ("disable_overlap_scheduler: true\n", "needs cache_transceiver_config"),
        ("disable_overlap_scheduler: true\ncache_transceiver_config: {backend: MPI}\n", "TRTLLM_USE_MPI_KVCACHE=1"),
        (GOOD + "disagg_cluster: {cluster_uri: 'http://h:1', inactive_interval_sec: 10}\n", "Extra inputs are not permitted"),
    ],
)
def test_refused_in_the_worker_yaml(yaml: str, said: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(yaml)
    assert said in refused("trtllm-serve", "m", "--server_role", "CONTEXT", "--config", str(tmp_path / "w.yaml"))


@pytest.mark.parametrize(
    "argv",
    [
        ("trtllm-serve", "m", "--config", "{yaml}"),
        ("vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'),
        ("sglang", "serve", "--model-path", "m", "--disaggregation-mode", "decode", "--disaggregation-transfer-backend", "nixl"),
    ],
)
def test_refused_with_a_ucx_without_gpu_memory(argv: tuple[str, ...], refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("cache_transceiver_config: {backend: DEFAULT}\n")
    assert "UCX_TLS=tcp" in refused(*(word.replace("{yaml}", str(tmp_path / "w.yaml")) for word in argv), UCX_TLS="tcp")


def test_refused_without_a_gpu(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "names a GPU twice" in refused("trtllm-serve", "m", CUDA_VISIBLE_DEVICES="0,0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(SystemExit, match="CUDA_VISIBLE_DEVICES is not set"):
        trtllm_serve.called(["m"])


def test_refused_in_a_wrong_world(refused: Refused) -> None:
    wrapped = {"TLLM_SPAWN_PROXY_PROCESS": "1", "TLLM_SPAWN_PROXY_PROCESS_IPC_HMAC_KEY": "0" * 64, "tllm_mpi_size": "1"}
    assert "does not equal the 1 tasks" in refused("trtllm-serve", "m", "--tp_size", "2", **wrapped)
    # four tasks were announced, but the MPI world has one: a wrong --mpi makes exactly that
    assert "the world has 1" in refused("trtllm-llmapi-launch", "trtllm-serve", "m", SLURM_NTASKS="4", SLURM_PROCID="1")


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("hostnam: h\ncontext_servers: {num_instances: 2, urls: ['a:1']}\n", "num_instances is 2, 1 urls are given"),
        ("context_servers: {urls: ['a:1:2']}\n", "too many values"),
        ("context_servers: {router: {type: fastest}}\n", "unknown router type"),
        ("backend: pytorch\ncontext_servers: {backend: tensorrt}\n", "differently in context_servers"),
        ("disagg_cluster: {heartbeat_interval_sec: 5}\n", "Field required"),
    ],
)
def test_refused_in_disagg_config(yaml: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml)
    with pytest.raises(ValueError, match=said):
        models.router_config(str(tmp_path / "c.yaml"))
