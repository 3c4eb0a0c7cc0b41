"""Where the time of a start-up goes: phases, and what each instance did when, from the event log. Pure.

Times are seconds since the gateway began, as `t` in the event log; what Slurm did before is negative.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

from disagg_launch.plan import Plan, Rank
from disagg_launch.watch.happened import Event

SUBMITTED, ALLOCATED, BEGUN = "submitted", "allocated", "gateway begun"
STEPS, RANKS, HEALTHY, PROVED, OPEN, FIRST_TOKEN = "steps started", "ranks up", "healthy", "proved", "router open", "first token"
STARTED, UP = "started", "role taken"


class Phase(NamedTuple):
    """A phase that ended at `at_s`, `took_s` after the one before. `last` names who was waited for, "" if nobody in particular."""

    name: str
    at_s: float
    took_s: float
    last: str = ""


class Span(NamedTuple):
    """An instance was in a stage; `to_s` is None while it is. `life` is 1 for its first start."""

    stage: str
    from_s: float
    to_s: Optional[float]
    life: int


class RankUp(NamedTuple):
    """A rank reported."""

    rank: Rank
    at_s: float
    host: str
    pid: int


class Instance(NamedTuple):
    """What one instance did. `own_s`: from its last rank's report to health in its first life, which is the engine's own time."""

    name: str
    role: str
    spans: tuple[Span, ...]
    ranks: tuple[RankUp, ...]
    own_s: Optional[float]
    healthy_s: Optional[float]


class Trace(NamedTuple):
    """One life of a deployment. `marks` are further (seconds, instance, what) to show: ends, restarts, changes, the verdict.

    `overhead_s`: from the gateway's beginning to the open router, less the slowest engine's own time; None until the router is open.
    `ended_s` is None while it lives.
    """

    name: str
    digest: str
    began_at: float
    phases: tuple[Phase, ...]
    instances: tuple[Instance, ...]
    marks: tuple[tuple[float, str, str], ...]
    overhead_s: Optional[float]
    slowest: str
    ended_s: Optional[float]


def trace(plan: Plan, events: Sequence[Event], first_token_at: Optional[float] = None) -> Optional[Trace]:
    """The last life of the gateway that the events tell of; None if there is none. `first_token_at` is unix time."""
    begins = [n for n, one in enumerate(events) if one.get("event") == "begun"]
    if not begins:
        return None
    life = events[begins[-1] :]
    began_at = life[0]["at"] - life[0]["t"]
    instances = tuple(_instance(plan, one.name, one.role, life) for one in plan.instances)
    phases = _phases(life, instances, first_token_at - began_at if first_token_at and first_token_at >= began_at else None)
    opened = next((phase.at_s for phase in phases if phase.name == OPEN), None)
    known = [one for one in instances if one.own_s is not None and (opened is None or (one.healthy_s or 0.0) <= opened)]
    slowest = max(known, key=lambda one: one.own_s or 0.0, default=None)
    overhead_s = opened - (slowest.own_s or 0.0) if opened is not None and slowest else None
    ended_s = next((one["t"] for one in life if one["event"] == "stopped"), None)
    return Trace(plan.name, plan.digest, began_at, phases, instances, _marks(life), overhead_s, slowest.name if slowest else "", ended_s)


def _instance(plan: Plan, name: str, role: str, life: Sequence[Event]) -> Instance:
    mine = [one for one in life if one.get("instance") == name]
    stages = _merged(one for one in mine if one["event"] == "stage" and one.get("rank") is None)
    turns = sorted(one["t"] for one in [*stages, *(one for one in mine if one["event"] == "ended")])
    spans = tuple(Span(one["stage"], one["t"], next((t for t in turns if t > one["t"]), None), one.get("life", 1)) for one in stages)
    first = {span.stage: span.from_s for span in reversed(spans) if span.life == 1}
    up, healthy = first.get(UP), first.get(HEALTHY)
    own_s = healthy - up if healthy is not None and up is not None else None
    return Instance(name, role, spans, _ranks(plan, name, mine), own_s, healthy)


def _merged(stages: Iterable[Event]) -> list[Event]:
    """The stages without those that only tell how far the one before is."""
    out: list[Event] = []
    for one in stages:
        if not out or (one["stage"], one.get("life")) != (out[-1]["stage"], out[-1].get("life")):
            out.append(one)
    return out


def _ranks(plan: Plan, name: str, mine: Sequence[Event]) -> tuple[RankUp, ...]:
    """The first report of each rank."""
    first: dict[int, Event] = {}
    for one in mine:
        for number in one.get("ranks", ()) if one["event"] == "rank" else ():
            first.setdefault(number, one)
    rows = [(rank, first[rank.rank]) for rank in plan.ranks_of(name) if rank.rank in first]
    return tuple(RankUp(rank, one["t"], one.get("host", ""), one.get("pid", 0)) for rank, one in rows)


def _phases(life: Sequence[Event], instances: Sequence[Instance], first_token_s: Optional[float]) -> tuple[Phase, ...]:
    """The phases that are over, in the order of time. Instances that were added after the router was open are not waited for."""
    opened = next((one["t"] for one in life if one["event"] == "router" and one.get("stage") == "open"), None)
    ones = [one for one in instances if opened is None or (one.spans and one.spans[0].from_s <= opened)]
    reached = [(one["t"], one["event"], "") for one in life if one["event"] in (SUBMITTED, ALLOCATED)]
    reached.append((life[0]["t"], BEGUN, ""))
    reached += _last(STEPS, [(one.spans[0].from_s, one.name) if one.spans else None for one in ones])
    reached += _last(
        RANKS, [max((up.at_s, f"rank {up.rank.rank} of {one.name}") for up in one.ranks) if one.ranks else None for one in ones]
    )
    reached += _last(HEALTHY, [(one.healthy_s, one.name) if one.healthy_s is not None else None for one in ones])
    if opened is not None:
        proofs = [one["t"] for one in life if one["event"] == "proof" and one.get("ok") and one["t"] <= opened]
        reached += _last(PROVED, [(t, "") for t in proofs])
        reached.append((opened, OPEN, ""))
        reached += [(first_token_s, FIRST_TOKEN, "")] if first_token_s is not None and first_token_s >= opened else []
    return _lasting(reached)


def _last(name: str, arrivals: Sequence[Optional[tuple[float, str]]]) -> list[tuple[float, str, str]]:
    """The phase, which the last of all reaches; nothing if somebody has not come yet, or there is nobody."""
    there = [one for one in arrivals if one is not None]
    if not there or len(there) < len(arrivals):
        return []
    at_s, who = max(there)
    return [(at_s, name, who)]


def _lasting(reached: list[tuple[float, str, str]]) -> tuple[Phase, ...]:
    reached.sort(key=lambda one: one[0])
    return tuple(Phase(name, t, t - (reached[n - 1][0] if n else t), who) for n, (t, name, who) in enumerate(reached))


def _marks(life: Sequence[Event]) -> tuple[tuple[float, str, str], ...]:
    kinds = ("ended", "restart", "change", "verdict", "stopped", "proof")
    return tuple((one["t"], one.get("instance", ""), _said(one)) for one in life if one["event"] in kinds)


def _said(one: dict[str, Any]) -> str:
    return f"{one['event']}: {one['text']}" if one.get("text") else str(one["event"])
