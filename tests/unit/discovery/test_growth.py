"""Growing and shrinking a plan: nobody moves, what was stopped is woken first, and what cannot be is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch import place, spec
from disagg_launch.discovery import growth
from disagg_launch.errors import BadInput, DoesNotFit
from disagg_launch.place.diff import compare
from disagg_launch.plan import CONTEXT, GENERATION, Plan
from disagg_launch.spec import Spec


def topology(context: int = 1, generation: int = 1, cluster: str = "gpus_per_node: 4", tp: int = 1, more: str = "") -> tuple[Spec, Plan]:
    text = f"""
name: g
model: random:7
engine: {{name: reference}}
cluster: {{{cluster}}}
context_servers: {{num_instances: {context}, tensor_parallel_size: {tp}}}
generation_servers: {{num_instances: {generation}}}
{more}
"""
    made = spec.loads(text, "g.yaml")
    return made, place.place(made)


def test_words() -> None:
    now = {CONTEXT: 2, GENERATION: 3}
    assert growth.wishes(["gen=+1", "ctx=5"], now) == {CONTEXT: 5, GENERATION: 4}
    assert growth.wishes(["gen=-2"], now) == {CONTEXT: 2, GENERATION: 1}
    for word in ("gen", "gen=", "foo=1", "gen=+-1", "gen=x"):
        with pytest.raises(BadInput, match="needed ctx=N or gen=N"):
            growth.wishes([word], now)


def test_there_and_back() -> None:
    topo, plan = topology()
    grown = growth.change(topo, plan, [], {CONTEXT: 3, GENERATION: 3})
    assert grown.starts == ("ctx1", "ctx2", "gen1", "gen2")
    assert grown.stops == ()
    back = growth.change(topo, grown.plan, [], {CONTEXT: 1, GENERATION: 1})
    assert back.plan == grown.plan
    assert set(back.stops) == {"ctx1", "ctx2", "gen1", "gen2"}
    again = growth.change(topo, grown.plan, back.stops, {CONTEXT: 2, GENERATION: 4})
    assert again.starts == ("ctx1", "gen1", "gen2", "gen3")


def test_below_the_minimum_is_refused() -> None:
    topo, plan = topology()
    with pytest.raises(BadInput, match="below 1"):
        growth.change(topo, plan, [], {CONTEXT: 0, GENERATION: 1})
    cluster = "disagg_cluster: {cluster_uri: auto, minimal_instances: {generation_servers: 2}}"
    topo, plan = topology(generation=3, more=cluster)
    with pytest.raises(BadInput, match="below 2"):
        growth.change(topo, plan, [], {CONTEXT: 1, GENERATION: 1})


def test_no_room_is_refused() -> None:
    topo, plan = topology(cluster="nodes: 1, gpus_per_node: 3")
    assert growth.change(topo, plan, [], {CONTEXT: 1, GENERATION: 2}).starts == ("gen1",)
    with pytest.raises(DoesNotFit):
        growth.change(topo, plan, [], {CONTEXT: 2, GENERATION: 2})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6), st.sampled_from([1, 2, 4]))
def test_whatever_is_wished_nobody_moves(wishes: list[tuple[int, int]], tp: int) -> None:
    topo, plan = topology(tp=tp)
    running = {"ctx0", "gen0"}
    for context, generation in wishes:
        resting = {one.name for one in plan.instances} - running
        done = growth.change(topo, plan, resting, {CONTEXT: context, GENERATION: generation})
        different = compare(plan, done.plan)
        assert (different.moved, different.gone, different.resized, different.ports) == ((), (), (), ())
        assert done.plan.ranks[: len(plan.ranks)] == plan.ranks
        running = (running | set(done.starts)) - set(done.stops)
        assert not set(done.starts) & set(done.stops)
        assert sum(name.startswith("ctx") for name in running) == context
        assert sum(name.startswith("gen") for name in running) == generation
        plan = done.plan
        seats = [(row.node, row.gpu) for row in plan.ranks]
        assert len(set(seats)) == len(seats)
        ports = [one.port for one in plan.instances]
        assert len(set(ports)) == len(ports)
        assert [row.rank for row in plan.ranks] == list(range(len(seats)))


def one_by_one(topo: Spec, plan: Plan, resting: list[str], names: list[str], least: int = 1) -> tuple[str, ...]:
    return growth.without(topo, plan, resting, names, False, dict.fromkeys(growth.ROLES, least)).starts


def test_who_stands_in() -> None:
    topo, plan = topology(context=1, generation=2)
    assert one_by_one(topo, plan, [], ["gen0", "gen1"]) == ()
    assert one_by_one(topo, plan, ["gen1"], ["gen0"]) == ("gen1",)
    assert one_by_one(topo, plan, [], ["ctx0", "gen0"]) == ("ctx1",)
    assert one_by_one(topo, plan, [], ["ctx0", "gen0"], least=2) == ("ctx1", "gen2")
    assert one_by_one(topo, plan, [], ["ctx0", "gen0"], least=0) == ()
    all_at_once = growth.without(topo, plan, [], ["gen0", "gen1"], True, {CONTEXT: 1, GENERATION: 2})
    assert all_at_once.starts == ("gen2", "gen3")
    assert len(all_at_once.plan.instances) == 5


def test_nobody_stands_in_where_there_is_no_room() -> None:
    topo, plan = topology(cluster="nodes: 1, gpus_per_node: 2")
    with pytest.raises(DoesNotFit, match="gen0: 1 context, 1 generation instances have to go on serving"):
        one_by_one(topo, plan, [], ["gen0"])


def test_a_role_without_instances_needs_none() -> None:
    topo, plan = topology(context=0, generation=1)
    assert growth.change(topo, plan, [], {CONTEXT: 0, GENERATION: 2}).starts == ("gen1",)
    assert one_by_one(topo, plan, [], ["gen0"]) == ("gen1",)
