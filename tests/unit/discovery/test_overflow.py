"""What fits on the nodes there are, and the further job for what does not."""

from __future__ import annotations

import pytest

from disagg_launch import place, spec
from disagg_launch.commands.further import Cut, Job, cuts
from disagg_launch.discovery import growth, overflow
from disagg_launch.plan import CONTEXT, GENERATION, Plan
from disagg_launch.spec import Spec

TEXT = """
name: g
model: random:7
engine: {name: reference}
cluster: {gpus_per_node: 2, spare_nodes: 1, pins: {ctx0: {nodes: [0], gpus: [0]}}}
context_servers: {num_instances: 1, env: {A: b}}
generation_servers: {num_instances: 1, tensor_parallel_size: 2}
slurm: {time: "10", job_name: x, nodelist: "a,b"}
port: 8100
disagg_cluster: {cluster_uri: auto, minimal_instances: {generation_servers: 1}}
"""


@pytest.fixture
def deployment() -> tuple[Spec, Plan]:
    made = spec.loads(TEXT, "g.yaml")
    return made, place.place(made)


def test_a_wish_is_cut_to_the_nodes_there_are(deployment: tuple[Spec, Plan]) -> None:
    topology, plan = deployment
    # ctx0 has half of node 0, gen0 has node 1, node 2 is spare
    room = overflow.within(topology, plan, 3, [])
    assert overflow.fitting(room, plan, [], [], {CONTEXT: 2, GENERATION: 2}) == {CONTEXT: 2, GENERATION: 2}
    assert overflow.fitting(room, plan, [], [], {CONTEXT: 9, GENERATION: 2}) == {CONTEXT: 4, GENERATION: 1}
    assert overflow.fitting(room, plan, [], [], {CONTEXT: 1, GENERATION: 7}) == {CONTEXT: 1, GENERATION: 2}
    assert overflow.within(topology, plan, None, []).cluster == topology.cluster


def test_nodes_that_are_gone_take_nobody_and_keep_who_rests_there(deployment: tuple[Spec, Plan]) -> None:
    topology, plan = deployment
    grown = growth.change(overflow.within(topology, plan, 3, []), plan, [], {CONTEXT: 1, GENERATION: 2})
    assert grown.plan.instance("gen1").nodes == (2,)
    room = overflow.within(topology, grown.plan, 3, [2])
    lost = overflow.buried(grown.plan, ["gen1"], [2])
    assert lost == {"gen1"}
    assert overflow.fitting(room, grown.plan, ["gen1"], lost, {CONTEXT: 4, GENERATION: 2}) == {CONTEXT: 2, GENERATION: 1}
    again = growth.change(room, grown.plan, ["gen1"], {CONTEXT: 2, GENERATION: 1}, lost)
    assert (again.starts, again.plan.instance("ctx1").nodes) == (("ctx1",), (0,))


def test_a_further_jobs_topology_is_a_topology(deployment: tuple[Spec, Plan]) -> None:
    text = overflow.topology(deployment[0], "g-1", {CONTEXT: 0, GENERATION: 2}, "http://head:8100", "/runs/g")
    made = spec.loads(text, "further.yaml")
    plan = place.place(made)
    assert [one.name for one in plan.instances] == ["gen0", "gen1"]
    assert (made.router.name, made.router.run) == ("none", "/runs/g")
    assert made.generation_servers.env["DISAGG_CLUSTER_TOKEN_FILE"] == "/runs/g/state/token"
    assert made.disagg_cluster is not None
    assert made.disagg_cluster.cluster_uri == "http://head:8100"
    assert made.slurm.time == "10"
    assert (made.slurm.job_name, made.slurm.nodelist, made.cluster.pins) == (None, None, {})


def test_newest_jobs_are_cut_first_and_those_that_wait_as_a_whole(deployment: tuple[Spec, Plan]) -> None:
    three = deployment[0].model_copy(
        update={"generation_servers": deployment[0].generation_servers.model_copy(update={"num_instances": 3})}
    )
    plan = place.place(three)
    old, new, waits = (Job(None, str(n), state, plan) for n, state in enumerate(("ready", "ready", "pending")))  # type: ignore[arg-type]
    surplus = {CONTEXT: 0, GENERATION: 1}
    assert list(cuts([old, new], surplus)) == [Cut(new, ("gen2",), False)]
    assert surplus == {CONTEXT: 0, GENERATION: 0}
    surplus = {CONTEXT: 1, GENERATION: 4}
    assert list(cuts([old, new], surplus)) == [Cut(new, ("ctx0", "gen0", "gen1", "gen2"), True), Cut(old, ("gen2",), False)]
    surplus = {CONTEXT: 0, GENERATION: 1}
    assert [one.whole for one in cuts([old, waits], surplus)] == [True]
    assert surplus == {CONTEXT: -1, GENERATION: -2}, "what it should have kept is wanted elsewhere"
