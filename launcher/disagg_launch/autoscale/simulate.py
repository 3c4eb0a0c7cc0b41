"""What a policy would have made of a recorded load. Pure.

The requests of the trace come again, evenly within each look, and pass the roles one after the other. An instance works on `slots` requests
at a time, each for `busy_s`; who finds no free slot waits in line. A new instance serves `start_s` after it was wished for; one that goes
finishes what it has. As in the gateway, nothing is wished for while a change is under way.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
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


class _Deployment:
    """All roles, and the change that is under way: when it will be done, and how many instances there are then."""

    def __init__(self, models: Mapping[str, Model], window_s: float, start_s: float, now_s: float) -> None:
        self._roles = {role: _Role(models[role], now_s) for role in ROLES if role in models}
        self._window_s, self._start_s = window_s, start_s
        self._under_way: Optional[tuple[float, dict[str, int]]] = None

    def look(self, came: list[float], now_s: float, span_s: float) -> Moment:
        """The span that ends now, in which these requests came."""
        seen = {}
        for name, role in self._roles.items():
            seen[name], came = role.serve(came, now_s, span_s)
        if self._under_way:
            self._go_on(*self._under_way, now_s)
            return {name: Step(one, None) for name, one in seen.items()}
        targets = {name: role.model.target for name, role in self._roles.items()}
        wishes = {name: self._roles[name].watched.look(one, seen[name], self._window_s) for name, one in targets.items() if one}
        self._begin({name: one.instances for name, one in wishes.items() if one.instances != self._roles[name].instances}, now_s)
        return {name: Step(one, wishes.get(name)) for name, one in seen.items()}

    def _begin(self, wanted: dict[str, int], now_s: float) -> None:
        grows = any(count > self._roles[name].instances for name, count in wanted.items())
        self._under_way = (now_s + (self._start_s if grows else 0), wanted) if wanted else None

    def _go_on(self, ready_s: float, wanted: dict[str, int], now_s: float) -> None:
        if now_s >= ready_s:
            self._under_way = None
            for name, count in wanted.items():
                self._roles[name].resize(count, now_s)
                self._roles[name].watched.changed(now_s)


def simulate(
    trace: Sequence[Look], models: Mapping[str, Model], interval_s: float, window_s: float, start_s: float, after_s: float
) -> list[Moment]:
    """A moment every `interval_s`, from the trace's beginning to `after_s` after its end."""
    first, last = (next(iter(trace[i].values())) for i in (0, -1))
    now_s, end_s = first.at_s - first.span_s, last.at_s + after_s
    deployment = _Deployment(models, window_s, start_s, now_s)
    came = arrivals(trace, models)
    moments: list[Moment] = []
    done = 0
    while now_s < end_s:
        now_s += interval_s
        upto = bisect_left(came, now_s, done)
        moments.append(deployment.look(came[done:upto], now_s, interval_s))
        done = upto
    return moments


def arrivals(trace: Sequence[Look], models: Mapping[str, Model]) -> list[float]:
    """When each request of a trace came to the first role there is, evenly within each look."""
    first = next(role for role in ROLES if role in models)
    out: list[float] = []
    for look in trace:
        seen = look.get(first)
        count = round(seen.requests) if seen else 0
        if seen:
            out += [seen.at_s - seen.span_s + seen.span_s * (i + 0.5) / count for i in range(count)]
    return sorted(out)


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
