"""From a topology to its plan: names, coordinates, ports, refusals."""

import pytest

from disagg_launch import place, plan, spec
from disagg_launch.errors import DoesNotFit
from disagg_launch.place.planner import ports
from disagg_launch.place.refuse import refusal

TOPOLOGY = """
model: /models/m
context_servers: {num_instances: 2, tensor_parallel_size: 2, context_parallel_size: 2}
generation_servers: {num_instances: 1, tensor_parallel_size: 2, pipeline_parallel_size: 2}
engine: {name: reference}
cluster:
"""


def planned(cluster):
    return place.place(spec.loads(TOPOLOGY + "".join(f"  {line}\n" for line in cluster)))


def test_ranks_are_pipeline_major_and_tensor_fastest():
    made = planned(["gpus_per_node: 4"])
    assert [(r.tp_rank, r.pp_rank) for r in made.ranks_of("ctx0")] == [(0, 0), (1, 0), (0, 0), (1, 0)]
    assert [(r.tp_rank, r.pp_rank) for r in made.ranks_of("gen0")] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [r.rank for r in made.ranks] == list(range(12))
    assert made.router == {"hostname": "localhost", "port": 8000, "node": 0}


def test_the_plan_is_sealed_and_read_back_without_loss():
    made = planned(["gpus_per_node: 4"])
    assert plan.from_json(plan.to_json(made)) == made


def test_unlike_nodes_are_in_the_plan():
    a, b = "{name: a, nodes: 4, gpus_per_node: 4, roles: [context]}", "{name: b, nodes: 4, gpus_per_node: 8, roles: [generation]}"
    made = planned([f"groups: [{a}, {b}]"])
    assert made.groups == (plan.NodeGroup("a", 0, 2, 4), plan.NodeGroup("b", 2, 1, 8))
    assert made.gpus_per_node == 8
    assert plan.from_json(plan.to_json(made)) == made


def test_pins_and_exclusions_come_through():
    made = planned(["gpus_per_node: 4", "pins: {ctx1: {nodes: [0]}}", "exclude: {nodes: [1]}"])
    assert made.instance("ctx1").nodes == (0,)
    assert 1 not in {rank.node for rank in made.ranks}


def test_a_description_of_running_servers_has_a_node_for_the_router_only():
    text = "context_servers: {urls: ['a:1']}\ngeneration_servers: {urls: ['b:1']}\n"
    made = place.place(spec.loads(text))
    assert (made.node_count, made.instances, made.ranks) == (1, (), ())


def test_ports_count_up_without_the_routers():
    assert ports([0, 0, 1], 8001, taken=8002) == [8001, 8003, 8004]


def test_ports_end_below_the_ephemeral_range_and_start_again_on_every_node():
    made = ports([0, 0, 1, 1], 32766, taken=8000)
    assert made == [32766, 32767, 32766, 32767]


def test_a_base_port_inside_the_ephemeral_range_is_kept():
    assert ports([0, 0], 40000, taken=8000) == [40000, 40001]


@pytest.mark.parametrize(
    ("cluster", "texts"),
    [
        (
            ["gpus_per_node: 4", "nodes: 2"],
            ["= 12 GPUs", "2 nodes x 4 GPUs = 8 GPUs", "cluster.nodes: 3", "context_servers.num_instances: 1"],
        ),
        (["gpus_per_node: 8", "nodes: 2", "policy: separate_roles", "spare_nodes: 1"], ["cluster.nodes: 3", "1 node kept free as spare"]),
        (["gpus_per_node: 4", "policy: align_domain", "domain_nodes: 1", "nodes: 1"], ["domains of 1 node"]),
        (["gpus_per_node: 4", "pins: {ctx0: {nodes: [0, 1, 2]}}"], ["ctx0 is pinned to 3 nodes, but it has 2 tensor-parallel groups"]),
    ],
)
def test_a_refusal_has_the_arithmetic_and_what_would_fit(cluster, texts):
    with pytest.raises(DoesNotFit) as refused:
        planned(cluster)
    for text in texts:
        assert text in str(refused.value)


def test_what_a_refusal_says_would_fit_does_fit():
    demands = [place.Demand(f"ctx{i}", "context", 4) for i in range(5)] + [place.Demand(f"gen{i}", "generation", 8, 2) for i in range(3)]
    text = refusal(demands, place.Cluster(8, nodes=6), "no room")
    assert "cluster.nodes: 9" in text
    assert place.layout(demands, place.Cluster(8, nodes=9)).node_count == 9
    assert "context_servers.num_instances: 4 with generation_servers.num_instances: 2" in text
    assert place.layout(demands[:4] + demands[5:7], place.Cluster(8, nodes=6)).node_count == 6
