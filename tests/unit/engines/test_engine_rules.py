"""What an engine cannot do is an error at its line of the topology file; what is added for it is a warning there."""

from __future__ import annotations

import pytest
from engine_view import planned, worker

from disagg_launch import engines, render
from disagg_launch.engines.process_rules import older
from disagg_launch.errors import BadInput

HEAD = "model: m\ncache_transceiver_config: {backend: DEFAULT}\n"
PAIR = "context_servers: {num_instances: 1}\ngeneration_servers: {num_instances: 1}\n"


def said(text: str) -> list[str]:
    """Every complaint of the engine about a topology."""
    return [str(one) for one in engines.check(*planned(text))]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            HEAD + PAIR + "engine: {name: trtllm}\ncluster: {gpus_per_node: 2}\n",
            "t.yaml:3:1: warning: context_servers.disable_overlap_scheduler: left out; set to true",
        ),
        (
            HEAD + "context_servers: {tensor_parallel_size: 4}\ngeneration_servers: {}\n"
            "engine: {name: trtllm, launch: serve}\ncluster: {gpus_per_node: 2}\n",
            "t.yaml:5:24: engine.launch: found serve, but ctx0 lies on 2 nodes",
        ),
        (
            HEAD + "context_servers: {tensor_parallel_size: 3}\ngeneration_servers: {num_instances: 0}\n"
            "engine: {name: trtllm, launch: llmapi-launch}\ncluster: {gpus_per_node: 2, nodes: 2}\n",
            "t.yaml:3:19: context_servers.tensor_parallel_size: ctx0 has 2 + 1 ranks",
        ),
        (
            HEAD + "context_servers: {tensor_parallel_size: 4, moe_expert_parallel_size: 3}\ngeneration_servers: {}\n"
            "engine: {name: trtllm}\ncluster: {gpus_per_node: 8}\n",
            "t.yaml:3:44: context_servers.moe_expert_parallel_size: found 3; an instance's 4 tensor-parallel ranks share its experts",
        ),
        (
            HEAD
            + "context_servers: {data_parallel_size: 2}\ngeneration_servers: {}\nengine: {name: trtllm}\ncluster: {gpus_per_node: 8}\n",
            "t.yaml:3:19: context_servers.data_parallel_size: found 2; TensorRT-LLM has no replicas in an instance",
        ),
        (
            HEAD + PAIR + "engine: {name: trtllm, launch: mpi-worker}\ncluster: {gpus_per_node: 2}\n"
            "disagg_cluster: {cluster_uri: 'etcd://h:2379'}\n",
            "t.yaml:5:24: engine.launch: mpi-worker found together with service discovery",
        ),
        (
            HEAD + PAIR + "engine: {name: trtllm}\ncluster: {gpus_per_node: 2}\nrouter: {name: command, command: [x]}\n"
            "disagg_cluster: {cluster_uri: auto}\n",
            "t.yaml:8:18: disagg_cluster.cluster_uri: found auto, which is the front door's own storage; the router command has none",
        ),
        (
            HEAD + PAIR + "engine: {name: trtllm, version: 1.1.0}\ncluster: {gpus_per_node: 2}\ndisagg_cluster: {cluster_uri: auto}\n",
            "t.yaml:5:24: engine.version: found 1.1.0, but disagg_cluster needs 1.2.0; use static urls or metadata_server",
        ),
        (
            HEAD + PAIR + "engine: {name: trtllm, quantize: {checkpoint: m}}\ncluster: {gpus_per_node: 2}\n",
            "t.yaml:1:1: generation_servers.model: found m, which engine.quantize reads",
        ),
        (
            "model: m\ncontext_servers: {tensor_parallel_size: 8}\ngeneration_servers: {}\n"
            "engine: {name: vllm, version: 0.11.2}\ncluster: {gpus_per_node: 4}\n",
            "t.yaml:4:22: engine.version: found 0.11.2, but instances that span nodes without Ray need 0.12.0; set engine.rendezvous: ray",
        ),
        (
            "model: m\ntensor_parallel_size: 2\npipeline_parallel_size: 2\ncontext_servers: {}\ngeneration_servers: {}\n"
            "engine: {name: vllm, rendezvous: ray}\ncluster: {gpus_per_node: 4, nodes: 2, policy: spread, pins: "
            "{ctx0: {nodes: [0, 1], gpus: [0, 1]}, gen0: {nodes: [0, 1], gpus: [2, 3]}}}\n",
            "t.yaml:6:22: engine.rendezvous: found ray, but ctx0 and gen0 share node 0, and a node has one Ray",
        ),
        (
            "model: m\ncontext_servers: {kv_transfer_config: {kv_connector: NixlConector}}\n"
            "generation_servers: {kv_transfer_config: {kv_connector: NixlConector}}\nengine: {name: vllm}\ncluster: {gpus_per_node: 4}\n",
            "t.yaml:2:40: warning: context_servers.kv_transfer_config.kv_connector: 'NixlConector' is not known here",
        ),
        (
            "model: m\ncontext_servers: {kv_transfer_config: {kv_connector: MooncakeConnector}}\n"
            "generation_servers: {}\nengine: {name: vllm}\ncluster: {gpus_per_node: 4}\n",
            "generation_servers.kv_transfer_config: found MooncakeConnector and NixlConnector; both roles need the same connector",
        ),
        (
            "model: m\nkv_transfer_config: {kv_connector: MooncakeConnector}\n" + PAIR + "engine: {name: vllm}\nrouter: {name: builtin}\n",
            "t.yaml:6:10: router.name: found builtin, which hands KV over as NIXL does; MooncakeConnector needs router: {name: vllm}",
        ),
        (
            "model: m\nkv_transfer_config: {kv_connector: P2pNcclConnector}\n" + PAIR + "engine: {name: vllm, version: 0.33.1}\n",
            "t.yaml:2:22: context_servers.kv_transfer_config.kv_connector: found P2pNcclConnector, which vLLM 0.33.0 and later do not have",
        ),
        (
            HEAD + PAIR + "engine: {name: trtllm, args: [--tp-size, '2']}\ncluster: {gpus_per_node: 2}\n",
            "t.yaml:5:31: warning: engine.args[0]: engine trtllm is not known to have --tp-size; it is passed on (did you mean --tp_size?)",
        ),
        (
            "model: m\n" + PAIR + "engine: {name: vllm, args: [--max_model_len=8, --no-enable-prefix-caching, --enforce-eagr]}\n",
            "t.yaml:4:76: warning: engine.args[2]: engine vllm (as of 0.33.0) is not known to have --enforce-eagr; it is passed on",
        ),
        (
            "model: m\n" + PAIR + "engine: {name: sglang, args: [--mem-fraction, '0.8']}\n",
            "t.yaml:4:31: warning: engine.args[0]: engine sglang (as of 0.5.23) is not known to have --mem-fraction",
        ),
        (
            "model: m\ncontext_servers: {moe_expert_parallel_size: 2}\ngeneration_servers: {}\n"
            "engine: {name: vllm}\ncluster: {gpus_per_node: 4}\n",
            "context_servers.moe_expert_parallel_size: vLLM has no such flag",
        ),
        (
            "model: m\ncontext_servers: {context_parallel_size: 2}\ngeneration_servers: {}\n"
            "engine: {name: sglang}\ncluster: {gpus_per_node: 4}\n",
            "context_servers.context_parallel_size: found 2; SGLang splits the context inside its tensor-parallel group",
        ),
        (
            "model: m\ndisaggregation_transfer_backend: nixxl\n" + PAIR + "engine: {name: sglang}\ncluster: {gpus_per_node: 4}\n",
            "context_servers.disaggregation_transfer_backend: found 'nixxl'; allowed: mooncake, nixl, ascend, fake, mori, mooncake_tcp",
        ),
        (
            "model: m\ncontext_servers: {tensor_parallel_size: 4, ep_size: 3}\ngeneration_servers: {}\n"
            "engine: {name: sglang}\ncluster: {gpus_per_node: 8}\n",
            "context_servers.ep_size: found 3; it has to divide the tensor_parallel_size of 4",
        ),
    ],
)
def test_said_at_its_line(text: str, wanted: str) -> None:
    found = said(text)
    assert any(wanted in one for one in found), found


def test_good_topologies_are_not_complained_about() -> None:
    for engine in ("vllm", "sglang"):
        assert said(f"model: m\n{PAIR}engine: {{name: {engine}}}\ncluster: {{gpus_per_node: 4}}\n") == []
    assert said(f"{HEAD}disable_overlap_scheduler: true\n{PAIR}engine: {{name: trtllm}}\ncluster: {{gpus_per_node: 4}}\n") == []


def test_an_error_stops_the_rendering_too() -> None:
    text = HEAD + "context_servers: {tensor_parallel_size: 4}\ngeneration_servers: {}\nengine: {name: trtllm, launch: serve}\n"
    topology, plan = planned(text + "cluster: {gpus_per_node: 2}\n")
    with pytest.raises(BadInput, match=r"t\.yaml:5:24: engine\.launch"):
        worker(topology, plan, "ctx0")


@pytest.mark.parametrize(
    ("backend", "more", "refused"),
    [
        ("local", "", "ctx0 has 2 nodes on localhost: use Slurm, or mpi.hosts"),
        ("mpirun", "mpi: {hosts: [a, a, b]}\n", "ctx0 has 2 nodes on a: use Slurm, or mpi.hosts"),
        ("mpirun", "mpi: {hosts: [a, b, a]}\n", ""),
        ("slurm", "", ""),
    ],
)
def test_ray_needs_a_machine_for_each_node(backend: str, more: str, refused: str) -> None:
    """symmetric-run does not count loopback as one of the node's addresses: every node would wait for a first one that is not there."""
    text = "model: m\ncontext_servers: {tensor_parallel_size: 8}\ngeneration_servers: {tensor_parallel_size: 4}\n"
    topology, plan = planned(text + "engine: {name: vllm, rendezvous: ray}\ncluster: {gpus_per_node: 4}\n" + more)
    if not refused:
        assert render.render(topology, plan, backend, "python3")
        return
    with pytest.raises(BadInput) as said:
        render.render(topology, plan, backend, "python3")
    assert str(said.value).startswith("t.yaml:4:1: engine: `ray symmetric-run` (engine.rendezvous: ray) tells nodes apart")
    assert str(said.value).endswith(refused)


def test_ray_waits_for_its_nodes_as_long_as_we_do() -> None:
    text = "model: m\ncontext_servers: {tensor_parallel_size: 8}\ngeneration_servers: {}\nengine: {name: vllm, rendezvous: ray}\n"
    made = worker(*planned(text + "cluster: {gpus_per_node: 4}\nreadiness: {limit_s: 900}\n"), "ctx0")
    assert made.environ["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"] == "900"


def test_versions_are_compared_by_their_numbers() -> None:
    assert older("0.9.2", "0.12.0")
    assert older("0.12.0rc1", "0.12.1")
    assert not older("0.12.0", "0.12.0")
    assert not older("1.0+cu129", "0.12.0")
    assert not older(None, "0.12.0")
