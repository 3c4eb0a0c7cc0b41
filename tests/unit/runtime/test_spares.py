"""Whose host takes over for a lost one, and which hosts nobody needs: the gateway's own and its watcher's are nobody's to give."""

from __future__ import annotations

import pytest

from disagg_launch import plan as plans
from disagg_launch.errors import BackendRefused
from disagg_launch.plan import Instance, Plan, Rank
from disagg_launch.runtime import spares
from disagg_launch.runtime.binding import Binding

NODES = 4
ROWS = tuple(Rank(n, f"ctx{n}", plans.CONTEXT, 0, 0, 0, n, 0) for n in range(NODES))
PLAN = Plan("p", NODES, 1, tuple(Instance(f"ctx{n}", plans.CONTEXT, n, 1, (n,), 8000 + n) for n in range(NODES)), ROWS)
HOSTS = tuple("abcdef")  # two more than nodes
BOUND = Binding(HOSTS, HOSTS)


def test_the_first_host_that_nobody_uses_takes_over_and_the_lost_one_takes_its_place() -> None:
    assert spares.rebound(PLAN, BOUND, [2], {"c"}).hosts == tuple("abedcf")
    assert spares.rebound(PLAN, BOUND, [2], {"c", "e"}).hosts == tuple("abfdec")
    assert spares.rebound(PLAN, BOUND, [2], {"b"}) is BOUND


def test_the_hosts_of_those_at_rest_are_spare_but_never_the_gateways() -> None:
    assert spares.rebound(PLAN, BOUND, [2], {"c", "e", "f"}, ["ctx0", "ctx3"]).hosts == tuple("abdcef")
    with pytest.raises(BackendRefused, match="no spare node is left"):
        spares.rebound(PLAN, BOUND, [2], {"c", "e", "f"}, ["ctx0"])


@pytest.mark.parametrize(
    ("resting", "lost", "kept", "given"),
    [
        ([], set(), 0, ["f", "e"]),
        ([], set(), 1, ["f"]),
        ([], {"f"}, 0, ["e"]),
        (["ctx0", "ctx1", "ctx2"], set(), 0, ["f", "e", "c"]),
        (["ctx3"], set(), 2, ["f"]),
    ],
)
def test_what_is_given_back_leaves_spares_and_the_first_two(resting: list[str], lost: set[str], kept: int, given: list[str]) -> None:
    assert spares.surplus(PLAN, BOUND, resting, lost, kept) == given
