"""Keys as flags, ports by GPU, and what each engine's command holds beyond the golden examples."""

from __future__ import annotations

import json

import pytest
from engine_view import front_door, planned, words, worker
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.engines import flags, ports
from disagg_launch.errors import BadInput


def test_keys_become_flags() -> None:
    keys = {"a_b": 1, "on": True, "off": False, "none": None, "many": [1, "x"], "map": {"k": [1]}, "text": "two words", "half": 0.5}
    wanted = ["--a-b", "1", "--on", "--many", "1", "x", "--map", '{"k": [1]}', "--text", "two words", "--half", "0.5"]
    assert list(flags.words(keys)) == wanted
    assert list(flags.words({"off": False}, negative="no-")) == ["--no-off"]
    assert list(flags.words({"a_b": 1}, dash="_")) == ["--a_b", "1"]


@given(st.dictionaries(st.from_regex(r"[a-z]+(_[a-z]+)*", fullmatch=True), st.text(), max_size=4))
def test_a_text_stays_one_word_whatever_it_holds(keys: dict[str, str]) -> None:
    assert list(flags.words(keys)) == [word for key, value in keys.items() for word in ("--" + key.replace("_", "-"), value)]


def test_no_two_instances_of_a_node_share_a_port() -> None:
    text = """
model: m
cache_transceiver_config: {backend: DEFAULT}
context_servers: {num_instances: 5, tensor_parallel_size: 2}
generation_servers: {num_instances: 2, tensor_parallel_size: 4, pipeline_parallel_size: 2}
engine: {name: vllm}
cluster: {gpus_per_node: 4}
"""
    _, plan = planned(text)
    taken: dict[int, str] = {one.port: one.name for one in plan.instances}
    for one in plan.instances:
        own = {int(ports.ipc(plan, one).of), int(ports.bootstrap(plan, one).of)}
        own |= {int(ports.kv(plan, one).of) + rank for rank in range(one.size)}
        own |= {int(ports.rendezvous(plan, one, more).of) for more in range(10)} if len(one.nodes) > 1 else set()
        low, high = ports.span(plan)
        assert all(low <= port <= high for port in own)
        for port in own:
            assert taken.setdefault(port, one.name) == one.name
    assert max(taken) < 32_768, "below the range from which clients' ports come"


def test_ports_that_are_too_high_are_refused() -> None:
    text = "model: m\ncontext_servers: {}\ngeneration_servers: {}\nengine: {name: sglang}\ncluster: {gpus_per_node: 4, base_port: 60000}\n"
    topology, plan = planned(text + "port: 65530\n")
    with pytest.raises(BadInput, match="ctx0 needs ports up to"):
        worker(topology, plan, "ctx0")


def test_trtllm_chooses_its_form() -> None:
    head = "model: m\ncontext_servers: {tensor_parallel_size: 2}\ngeneration_servers: {}\nengine: {name: trtllm}\n"
    assert words(worker(*planned(head + "cluster: {gpus_per_node: 4}\n"), "ctx0").argv)[0] == "trtllm-serve"
    for more in ("cluster: {gpus_per_node: 1}\n", "cluster: {gpus_per_node: 4}\nslurm: {}\n"):
        assert words(worker(*planned(head + more), "ctx0").argv)[0] == "trtllm-llmapi-launch"


def test_trtllm_keys_of_the_command_line_do_not_go_into_the_file() -> None:
    from disagg_launch.engines import trtllm

    text = """
model: m
free_gpu_memory_fraction: 0.7
backend: _autodeploy
trust_remote_code: true
context_servers: {}
generation_servers: {}
engine: {name: trtllm, program: /opt/bin/trtllm-serve, launch: llmapi-launch, args: [--log_level, debug]}
cluster: {gpus_per_node: 4}
"""
    topology, plan = planned(text)
    argv = words(worker(topology, plan, "gen0").argv)
    assert argv[:2] == ["/opt/bin/trtllm-llmapi-launch", "/opt/bin/trtllm-serve"]
    assert argv[-6:] == ["--free_gpu_memory_fraction", "0.7", "--backend", "_autodeploy", "--log_level", "debug"]
    assert trtllm.files(topology, plan)["configs/gen.yaml"] == "trust_remote_code: true\n"


def test_mpi_backend_gets_its_variable() -> None:
    for backend, wanted in (("MPI", "1"), ("UCX", None)):
        text = f"model: m\ncache_transceiver_config: {{backend: {backend}}}\ncontext_servers: {{}}\ngeneration_servers: {{}}\n"
        topology, plan = planned(text + "engine: {name: trtllm, launch: mpi-worker}\ncluster: {gpus_per_node: 4}\n")
        assert worker(topology, plan, "ctx0").environ.get("TRTLLM_USE_MPI_KVCACHE") == wanted


def test_a_misspelt_flag_is_a_warning_with_what_was_meant() -> None:
    for engine, key, meant in (("vllm", "max_modl_len", "max_model_len"), ("sglang", "mem_fraction_statik", "mem_fraction_static")):
        topology, _ = planned(f"model: m\n{key}: 1\ncontext_servers: {{}}\ngeneration_servers: {{}}\nengine: {{name: {engine}}}\n")
        (said,) = map(str, topology.warnings)
        assert said.startswith(f"t.yaml:2:1: warning: {key}: ")
        assert meant in said


@pytest.mark.parametrize("connector", [None, "NixlConnector", "NixlPushConnector", "P2pNcclConnector", "MooncakeConnector"])
@pytest.mark.parametrize("role", ["context", "generation"])
def test_vllm_connectors(connector: str | None, role: str) -> None:
    given = f"kv_transfer_config: {{kv_connector: {connector}, kv_connector_extra_config: {{a: 1}}}}\n" if connector else ""
    text = f"model: m\n{given}context_servers: {{}}\ngeneration_servers: {{}}\nengine: {{name: vllm}}\ncluster: {{gpus_per_node: 4}}\n"
    topology, plan = planned(text)
    made = worker(topology, plan, {"context": "ctx0", "generation": "gen0"}[role])
    argv = words(made.argv)
    config = json.loads(argv[argv.index("--kv-transfer-config") + 1])
    nixl = connector in (None, "NixlConnector", "NixlPushConnector")
    assert config["kv_connector"] == (connector or "NixlConnector")
    assert config["kv_role"] == ("kv_both" if nixl else {"context": "kv_producer", "generation": "kv_consumer"}[role])
    assert config.get("kv_connector_extra_config") == ({"a": 1} if connector else None)
    assert ("kv_port" in config) == (connector == "P2pNcclConnector")
    assert ("VLLM_NIXL_SIDE_CHANNEL_PORT" in made.environ) == nixl
    assert ("VLLM_MOONCAKE_BOOTSTRAP_PORT" in made.environ) == (connector == "MooncakeConnector")
    assert made.answers_at == ("/v1/completions" if nixl else "")


def test_one_server_needs_no_policy_of_the_rust_routers() -> None:
    """power_of_two refuses to start with fewer than two workers."""
    text = """
model: m
context_servers: {num_instances: 2, router: {type: load_balancing}}
generation_servers: {router: {type: load_balancing}}
engine: {name: sglang}
router: {name: sglang, options: {log_level: warn}}
cluster: {gpus_per_node: 4}
"""
    argv = words(front_door(*planned(text))[0].argv)
    assert argv[argv.index("--prefill-policy") + 1] == "power_of_two"
    assert argv[argv.index("--decode-policy") + 1] == "round_robin"
    assert argv[-2:] == ["--log-level", "warn"]
