"""A running plan and a wish -> the plan that differs as little as can be: who is there stays where it is, new instances come behind. Pure.

An instance that was stopped keeps its place in the plan, and is the first to be woken when its role grows again: so numbers of ranks
and GPUs never change under a process that runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from disagg_launch.engines import ports
from disagg_launch.errors import BadInput, DoesNotFit
from disagg_launch.plan import CONTEXT, GENERATION, PREFIX, Instance, Plan, Rank

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

ROLES = (CONTEXT, GENERATION)
WISH = re.compile(r"(ctx|gen)=([+-]?)(\d+)")
BLOCKS = "port_blocks"
"""Key of Plan.router: where the engines' side ports begin, kept from the first plan so that no running process's ports move."""


@dataclass(frozen=True)
class Change:
    """What a wish comes to: the plan with the new instances, those to start (new or woken), and those to stop."""

    plan: Plan
    starts: tuple[str, ...]
    stops: tuple[str, ...]


def wishes(words: Iterable[str], running: dict[str, int]) -> dict[str, int]:
    """Wanted instances by role, from words such as gen=+1 and ctx=3. BadInput for a word that is none."""
    roles = {prefix: role for role, prefix in PREFIX.items()}
    wanted = dict(running)
    for word in words:
        found = WISH.fullmatch(word)
        if not found:
            raise BadInput(f"{word!r}: found no wish; needed ctx=N or gen=N, with + or - before N for more or fewer than now")
        role, sign, number = roles[found[1]], found[2], int(found[3])
        wanted[role] = number if not sign else wanted[role] + (number if sign == "+" else -number)
    return wanted


def change(spec: Spec, plan: Plan, resting: Iterable[str], wanted: dict[str, int], lost: Collection[str] = ()) -> Change:
    """The change that gives each role `wanted` running instances. `resting` are stopped ones of the plan; those `lost` stay so.

    BadInput below the minimal instances (1 without a cluster), DoesNotFit when there is no room.
    """
    asleep = set(resting)
    starts: list[str] = []
    stops: list[str] = []
    counts: dict[str, int] = {}
    for role in ROLES:
        names = [one.name for one in plan.instances if one.role == role]
        running = [name for name in names if name not in asleep]
        if names or wanted[role]:
            check(spec, role, wanted[role])
        more = wanted[role] - len(running)
        stops += running[wanted[role] :]
        woken = [name for name in names if name in asleep and name not in lost][: max(0, more)]
        fresh = max(0, more - len(woken))
        counts[role] = len(names) + fresh
        starts += [*woken, *(f"{PREFIX[role]}{len(names) + i}" for i in range(fresh))]
    return Change(grown(spec, plan, counts), tuple(starts), tuple(reversed(stops)))


def without(
    spec: Spec, plan: Plan, resting: Iterable[str], names: Sequence[str], at_once: bool, least: dict[str, int], lost: Collection[str] = ()
) -> Change:
    """The plan with those who have to stand in (`starts`) so that no role falls below `least` while `names` are away. `lost`: see `change`.

    They are away all `at_once`, or one after the other. DoesNotFit when there is no room for somebody to stand in.
    """
    asleep = set(resting)
    running = [one for one in plan.instances if one.name not in asleep]
    wanted = {}
    for role in ROLES:
        there = sum(one.role == role for one in running)
        going = sum(one.role == role and one.name in names for one in running)
        away = going if at_once else min(1, going)
        wanted[role] = there + max(0, min(least[role], there) - (there - away))
    try:
        return change(spec, plan, asleep, wanted, lost)
    except DoesNotFit as wrong:
        need = ", ".join(f"{least[role]} {role}" for role in ROLES)
        raise DoesNotFit(
            f"{', '.join(names)}: {need} instances have to go on serving, and there is no room for one more to stand in ({wrong}); make"
            " room (`scale` another role down, more nodes or GPUs in the file), or lower minimal_instances"
        ) from None


def grown(spec: Spec, plan: Plan, counts: dict[str, int]) -> Plan:
    """The plan with `counts` instances of each role: all there are, unmoved, and behind them the new ones in what room is left."""
    from disagg_launch import place

    if all(sum(one.role == role for one in plan.instances) == count for role, count in counts.items()):
        return plan
    fresh = place.place(resized(spec, plan, counts))
    for one in plan.instances:
        if [(r.node, r.gpu) for r in plan.ranks_of(one.name)] != [(r.node, r.gpu) for r in fresh.ranks_of(one.name)]:
            raise DoesNotFit(f"{one.name} would have to move to make room; stop it first, or start another deployment")
    new = [one for one in fresh.instances if one.name not in {old.name for old in plan.instances}]
    return _appended(plan, fresh, new)


def resized(spec: Spec, plan: Plan, counts: dict[str, int]) -> Spec:
    """The spec with other counts, and with every instance of the plan pinned to its place."""
    from disagg_launch.spec import Pin

    pins = {one.name: _pin(plan, one, Pin) for one in plan.instances}
    sections = {f"{role}_servers": spec.section(role).model_copy(update={"num_instances": count}) for role, count in counts.items()}
    return spec.model_copy(update={**sections, "cluster": spec.cluster.model_copy(update={"pins": pins})})


def _pin(plan: Plan, one: Instance, make: type) -> object:
    gpus = tuple(sorted({r.gpu for r in plan.ranks_of(one.name) if r.node == one.nodes[0]}))
    return make(nodes=one.nodes, gpus=gpus)


def _appended(plan: Plan, fresh: Plan, new: Sequence[Instance]) -> Plan:
    """`plan` with the instances `new` of `fresh` behind its own, under new rank numbers and ports that nobody has."""
    base = int(plan.router.get(BLOCKS) or 1 + max(plan.router.get("port", 0), *(one.port for one in plan.instances)))
    port = max(base + ports.NODES * fresh.gpus_per_node * ports.PER_GPU, *(one.port + 1 for one in plan.instances))
    instances, ranks = list(plan.instances), list(plan.ranks)
    for one in new:
        instances.append(replace(one, first_rank=len(ranks), port=port))
        ranks += [_renumbered(row, len(ranks) + i) for i, row in enumerate(fresh.ranks_of(one.name))]
        port += 1
    return replace(
        plan,
        node_count=max(plan.node_count, fresh.node_count),
        instances=tuple(instances),
        ranks=tuple(ranks),
        router={**plan.router, BLOCKS: base},
    ).sealed()


def _renumbered(row: Rank, number: int) -> Rank:
    return replace(row, rank=number)


def minimal(spec: Spec, role: str) -> int:
    """Below how many running instances of a role the front door is not ready."""
    if spec.disagg_cluster is None:
        return 1
    return max(1, int(getattr(spec.disagg_cluster.minimal_instances, f"{role}_servers")))


def check(spec: Spec, role: str, count: int) -> None:
    """BadInput if `count` running instances of a role are too few for the front door to be ready."""
    if count < minimal(spec, role):
        text = f"the front door is not ready below {minimal(spec, role)}; ask for more, or stop everything with `down`"
        raise BadInput(f"{PREFIX[role]}={count}: {text}")
