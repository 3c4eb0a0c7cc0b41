"""The plan: to JSON and back without loss, and a digest that notices every change."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch import plan
from disagg_launch.plan import Instance, NodeGroup, Plan, Rank


def two_instances() -> Plan:
    ranks = (
        Rank(0, "ctx0", "context", 0, 0, 0, 0, 0),
        Rank(1, "ctx0", "context", 1, 1, 0, 0, 1),
        Rank(2, "gen0", "generation", 0, 0, 0, 1, 0),
    )
    instances = (Instance("ctx0", "context", 0, 2, (0,), 8001), Instance("gen0", "generation", 2, 1, (1,), 8002))
    return Plan("small", 2, 4, instances, ranks, {"host": "localhost", "port": 8000, "node": 0}).sealed()


def test_json_has_the_names_users_rely_on_and_comes_back_without_loss() -> None:
    made = two_instances()
    raw = json.loads(plan.to_json(made))
    assert set(raw) == {"version", "digest", "name", "node_count", "gpus_per_node", "router", "instances", "ranks"}
    assert list(raw["ranks"][1]) == ["rank", "instance", "role", "instance_rank", "tp_rank", "pp_rank", "node", "gpu"]
    assert list(raw["instances"][0]) == ["name", "role", "first_rank", "size", "nodes", "port"]
    assert plan.from_json(plan.to_json(made)) == made


def test_unlike_nodes_travel_too() -> None:
    made = replace(two_instances(), groups=(NodeGroup("big", 0, 1, 8), NodeGroup("small", 1, 1, 4)), digest="").sealed()
    assert plan.from_json(plan.to_json(made)) == made


@given(st.integers(0, 2), st.sampled_from(["rank", "instance_rank", "tp_rank", "pp_rank", "node", "gpu"]), st.integers(1, 9))
def test_a_changed_row_is_noticed(row: int, column: str, by: int) -> None:
    raw = json.loads(plan.to_json(two_instances()))
    raw["ranks"][row][column] += by
    with pytest.raises(ValueError, match="edited by hand"):
        plan.from_json(json.dumps(raw))


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        plan.from_json(plan.to_json(two_instances()).replace('"version": 1', '"version": 99'))


def test_asking_for_every_instance_in_turn_walks_over_them_once() -> None:
    class Counted(tuple[Instance, ...]):
        walks = 0

        def __iter__(self) -> Iterator[Instance]:
            Counted.walks += 1
            return super().__iter__()

    made = replace(two_instances(), instances=Counted(two_instances().instances))
    assert [made.instance(name).port for name in ("ctx0", "gen0") * 50] == [8001, 8002] * 50
    assert Counted.walks == 1
    with pytest.raises(KeyError):
        made.instance("ctx9")


def test_steps_cover_every_rank_once() -> None:
    made = two_instances()
    covered = [r for s in plan.steps_per_instance(made) for r in range(s.first_rank, s.first_rank + s.size)]
    assert covered == [r.rank for r in made.ranks]
    world = plan.step_of_world(made)
    assert (world.size, world.nodes, world.instances) == (3, (0, 1), ("ctx0", "gen0"))


def test_shape_is_read_off_the_rows() -> None:
    assert plan.shape(two_instances(), "ctx0") == (2, 1)
