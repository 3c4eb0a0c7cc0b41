"""How many instances a role should have, from what was seen of its requests lately. Pure: no clock, no memory but what is handed in.

    waits longer than the target           one step more; how many requests a second and instance that were is remembered as too many
    waits less than half of it, for a      one fewer, unless those left would then get nearly as many as is known to be too many
    whole window, and nobody waits
    else, or changed a moment ago          as it is

The remembered rate is what keeps a steady load from going to and fro: what was too little once is not tried again at the same load. It is
forgotten when the role does well at such a rate, so requests that have become lighter are noticed.
"""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

from disagg_launch.launch import Target

SLACK = 0.5
"""Of the target: so little waiting may mean that there are too many instances."""
MARGIN = 0.9
"""Of the rate that is known to be too much: those left after shrinking may be given so much of it."""


class Seen(NamedTuple):
    """What was seen of a role between two looks, `span_s` long and ending at `at_s`; means are 0 when there was nothing.

    `requests` had their turn at a worker (after `queue_s` on average), `answered` had their first token (after `ttft_s`), `completed` were
    finished (and kept a worker busy for `busy_s`). At the end `active` were at workers and `waiting` for one, the oldest for `oldest_s`.
    """

    at_s: float
    span_s: float
    instances: int
    requests: float = 0.0
    queue_s: float = 0.0
    answered: float = 0.0
    ttft_s: float = 0.0
    completed: float = 0.0
    busy_s: float = 0.0
    active: float = 0.0
    waiting: float = 0.0
    oldest_s: float = 0.0


class Memory(NamedTuple):
    """When the number of instances changed last, and from how many requests a second and instance on they have been too slow.

    `in_vain`: it was to change then, and did not.
    """

    changed_s: float
    crowded: Optional[float] = None
    in_vain: bool = False


class Wish(NamedTuple):
    """How many instances there should be, and why; and what to remember."""

    instances: int
    why: str
    memory: Memory


class Watched:
    """A role that is looked at again and again. A change of its number of instances, by whomever, makes what was seen before it void."""

    def __init__(self) -> None:
        self._window: List[Seen] = []
        self._memory = Memory(0.0)

    def look(self, target: Target, seen: Seen, window_s: float) -> Wish:
        """What follows from one more look."""
        if not self._window:
            self._memory = self._memory._replace(changed_s=seen.at_s)
        elif self._window[-1].instances != seen.instances:
            self.changed(seen.at_s)
        self._window = [one for one in self._window if one.at_s > seen.at_s - window_s] + [seen]
        found = wish(target, self._window, window_s, self._memory)
        self._memory = found.memory
        return found

    def changed(self, now_s: float, in_vain: bool = False) -> None:
        """The role was changed now, or was to be."""
        self._window, self._memory = [], self._memory._replace(changed_s=now_s, in_vain=in_vain)


def wish(target: Target, window: Sequence[Seen], window_s: float, memory: Memory) -> Wish:
    """What follows from a `window` of looks, oldest first, of which there is at least one.

    Never outside the target's minimum and maximum; those are kept at once, everything else only `cool_down_s` after the last change.
    What was tried in vain is not tried again before that is over, whatever it was.
    """
    now = window[-1]
    count = now.instances
    inside = min(max(count, target.minimum), target.maximum)
    rest_s = memory.changed_s + target.cool_down_s - now.at_s
    if inside != count and not (memory.in_vain and rest_s > 0):
        return Wish(inside, f"at {'least' if inside > count else 'most'} {inside} are wanted", memory)
    if rest_s > 0:
        what = "tried in vain" if memory.in_vain else "changed"
        return Wish(count, f"{what} {now.at_s - memory.changed_s:.0f} s ago, which is left alone for {target.cool_down_s:g} s", memory)
    recent = [one for one in window if one.at_s - one.span_s >= memory.changed_s and one.at_s > now.at_s - window_s]
    if not recent:
        return Wish(count, "nothing was seen yet", memory)
    return _judged(target, recent, window_s, memory)


def _judged(target: Target, recent: Sequence[Seen], window_s: float, memory: Memory) -> Wish:
    count, span_s = recent[-1].instances, sum(one.span_s for one in recent)
    pressure, why = strain(target, recent)
    rate = sum(one.requests for one in recent) / span_s
    crowded, whole = memory.crowded, span_s >= window_s * (1 - 1e-6)
    if pressure > 1:
        crowded = min(rate / count, math.inf if crowded is None else crowded)
        more = min(count + target.step, target.maximum, math.ceil(count * min(pressure, target.maximum)))
        return Wish(more, why if more > count else f"{why}, and there are {count} already", memory._replace(crowded=crowded))
    if crowded is not None and whole and rate / count >= crowded:
        memory = memory._replace(crowded=None)
    if not whole or pressure > SLACK or recent[-1].waiting or count == target.minimum:
        return Wish(count, why, memory)
    if crowded is not None and rate / (count - 1) > MARGIN * crowded:
        left = f"{count - 1} would get {rate / (count - 1):.3g} requests/s each, and {crowded:.3g} were too many"
        return Wish(count, f"{why}, but {left}", memory)
    return Wish(count - 1, why, memory)


def strain(target: Target, seen: Sequence[Seen]) -> Tuple[float, str]:
    """The worst wait as a share of its target, and in words. Who waits now has waited so long at least."""
    oldest_s = seen[-1].oldest_s
    waits = []
    if target.queue_s:
        mean_s = mean([(one.queue_s, one.requests) for one in seen])
        waits.append((max(mean_s, oldest_s) / target.queue_s, "waiting for a worker", max(mean_s, oldest_s), target.queue_s))
    if target.ttft_s:
        mean_s = mean([(one.ttft_s, one.answered) for one in seen])
        waits.append((max(mean_s, oldest_s) / target.ttft_s, "first token", max(mean_s, oldest_s), target.ttft_s))
    if not waits:
        return 0.0, "no target"
    pressure, what, found_s, wanted_s = max(waits)
    return pressure, f"{what} {found_s:.3g} s, target {wanted_s:g} s"


def mean(parts: Sequence[Tuple[float, float]]) -> float:
    """The mean of (value, weight)s; 0 without any weight."""
    weight = sum(weight for _, weight in parts)
    return sum(value * weight for value, weight in parts) / weight if weight else 0.0
