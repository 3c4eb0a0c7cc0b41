"""What a policy would have made of a recorded load. Pure.

The requests of the trace come again, evenly within each look, and pass the roles one after the other. An instance works on `slots` requests
at a time, each for `busy_s`; who finds no free slot waits in line. A new instance serves `start_s` after it was wished for; one that goes
finishes what it has. As in the gateway, nothing is wished for while a change is under way.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from disagg_launch.autoscale.trace import ROLES, Look
from disagg_launch.launch import Target
from disagg_launch.runtime.policy import Seen, Watched, Wish, mean

CALM_SHARE = 0.1
"""The calmest tenth of a trace's requests shows how long one takes when hardly anybody is in its way."""


@dataclass(frozen=True)
class Model:
    """One role: how many instances it begins with, requests an instance works on at once, and for how long each.

    `first_s` until its first token. Without a `target` the role stays as it is.
    """

    instances: int
    slots: int
    busy_s: float
    first_s: float
    target: Optional[Target] = None


class Step(NamedTuple):
    """One role at one moment: what was seen since the moment before, and what is wished then (None while a change is under way)."""

    seen: Seen
    wish: Optional[Wish]


Moment = Mapping[str, Step]


class _Role:
    """The line in front of a role, and when each of its slots is free again."""

    def __init__(self, model: Model, now_s: float) -> None:
        self.model, self.watched, self.instances = model, Watched(), model.instances
        self._free = [now_s] * (model.instances * model.slots)
        self._line: deque[float] = deque()

    def serve(self, came: Sequence[float], now_s: float, span_s: float) -> tuple[Seen, list[float]]:
        """What is seen of the span that ends now, given who came in it; and when those whose turn it was are done."""
        self._line.extend(came)
        waits, done = [], []
        while self._line and self._free and (begin := max(self._line[0], self._free[0])) < now_s:
            waits.append(begin - self._line.popleft())
            done.append(begin + self.model.busy_s)
            heapq.heapreplace(self._free, done[-1])
        wait_s, count = mean([(one, 1) for one in waits]), len(waits)
        waiting = [one for one in self._line if one < now_s]
        now: dict[str, Any] = {"waiting": len(waiting), "oldest_s": now_s - waiting[0] if waiting else 0.0}
        now["active"] = sum(one > now_s for one in self._free)
        if waits:
            now |= dict.fromkeys(("requests", "answered", "completed"), count)
            now |= {"queue_s": wait_s, "ttft_s": wait_s + self.model.first_s, "busy_s": self.model.busy_s}
        return Seen(now_s, span_s, self.instances, **now), done

    def resize(self, instances: int, now_s: float) -> None:
        """More or fewer slots from now on; those that are free first go first."""
        for _ in range((instances - self.instances) * self.model.slots):
            heapq.heappush(self._free, now_s)
        for _ in range((self.instances - instances) * self.model.slots):
            heapq.heappop(self._free)
        self.instances = instances


def simulate(
    trace: Sequence[Look], models: Mapping[str, Model], interval_s: float, window_s: float, start_s: float, after_s: float
) -> list[Moment]:
    """A moment every `interval_s`, from the trace's beginning to `after_s` after its end."""
    came = arrivals(trace, models)
    begin_s = trace[0][next(iter(trace[0]))].at_s - trace[0][next(iter(trace[0]))].span_s
    end_s = trace[-1][next(iter(trace[-1]))].at_s + after_s
    roles = {role: _Role(models[role], begin_s) for role in ROLES if role in models}
    under_way: Optional[tuple[float, dict[str, int]]] = None
    moments: list[Moment] = []
    now_s, at = begin_s, 0
    while now_s < end_s:
        now_s += interval_s
        upto = at
        while upto < len(came) and came[upto] < now_s:
            upto += 1
        seen, offered = {}, came[at:upto]
        at = upto
        for name, role in roles.items():
            seen[name], offered = role.serve(offered, now_s, interval_s)
        if under_way and under_way[0] <= now_s:
            for name, count in under_way[1].items():
                roles[name].resize(count, now_s)
                roles[name].watched.changed(now_s)
            under_way = None
            moments.append({name: Step(one, None) for name, one in seen.items()})
            continue
        wishes = {} if under_way else _wishes(roles, seen, window_s)
        moments.append({name: Step(one, wishes.get(name)) for name, one in seen.items()})
        wanted = {name: wish.instances for name, wish in wishes.items() if wish.instances != roles[name].instances}
        if wanted:
            grows = any(count > roles[name].instances for name, count in wanted.items())
            under_way = now_s + (start_s if grows else 0), wanted
    return moments


def _wishes(roles: Mapping[str, _Role], seen: Mapping[str, Seen], window_s: float) -> dict[str, Wish]:
    found = {}
    for name, role in roles.items():
        if role.model.target:
            found[name] = role.watched.look(role.model.target, seen[name], window_s)
    return found


def arrivals(trace: Sequence[Look], models: Mapping[str, Model]) -> list[float]:
    """When each request of a trace came to the first role there is, evenly within each look."""
    first = next(role for role in ROLES if role in models)
    out: list[float] = []
    for look in trace:
        seen = look.get(first)
        count = round(seen.requests) if seen else 0
        if seen:
            out += [seen.at_s - seen.span_s + seen.span_s * (i + 0.5) / count for i in range(count)]
    return out


def calm(trace: Sequence[Look], role: str) -> tuple[float, float]:
    """(busy_s, first_s): how long a request took a role, and its first token, where the trace is calmest."""
    seen = [look[role] for look in trace if role in look]
    return _low([(one.busy_s, one.completed) for one in seen]), _low([(one.ttft_s, one.answered) for one in seen])


def capacity(trace: Sequence[Look], role: str) -> float:
    """Requests per second that one instance finished while others waited all the time; 0 if that was never so."""
    seen = [look[role] for look in trace if role in look]
    full = [after for before, after in zip(seen, seen[1:]) if before.waiting and after.waiting]
    spent_s = sum(one.span_s * one.instances for one in full)
    return sum(one.completed for one in full) / spent_s if spent_s else 0.0


def _low(parts: Sequence[tuple[float, float]]) -> float:
    """The mean of the smallest values that make up CALM_SHARE of the weight; 0 without any."""
    known = sorted((value, weight) for value, weight in parts if weight)
    left = CALM_SHARE * sum(weight for _, weight in known)
    taken = []
    for value, weight in known:
        taken.append((value, min(weight, left)))
        left -= weight
        if left <= 0:
            break
    return mean(taken)
