"""The judge: from what was seen of every instance to wait, ready or failed. Pure: time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from disagg_launch.errors import NotReady, WorkerDied

SCHEDULED, STARTED, ROLE_TAKEN, STARTING, LOADING, LISTENING, HEALTHY, PROVED, ROUTED = STAGES = (
    "scheduled", "started", "role taken", "engine starting", "loading", "listening", "healthy", "proved", "routed",
)  # fmt: skip
UP = (HEALTHY, PROVED, ROUTED)
WAIT, READY, FAILED = "wait", "ready", "failed"
BUSY = 3
"""Who uses the processor and does nothing else that can be seen is given so many times the patience: compilers are silent."""
FRESH = 0.1
"""Who has got on within this part of stall_s is not given up when limit_s is over ..."""
LONGEST = 4
"""... unless that has gone on until so many times limit_s."""


@dataclass(frozen=True)
class Observation:
    """What is known of one instance now.

    `missing`: its ranks (global numbers) that have not reported. `detail`: what its probe saw; `last_line`: what it last said.
    `phase` and `percent`: how far it is with loading. `still_s`: how long it has not got on; `idle_s`: how long it has not even used the
    processor. None and 0 until its first rank has reported: before that there is nothing to look at.
    `ended`: how it ended ("rank 0 on node3: exit code 3"), "" while it lives; `ended_s` when, on the gateway's clock.
    `code`: the exit status that its end deserves.
    """

    instance: str
    stage: str = SCHEDULED
    missing: Tuple[int, ...] = ()
    detail: str = ""
    last_line: str = ""
    phase: str = ""
    percent: Optional[int] = None
    still_s: Optional[float] = None
    idle_s: float = 0.0
    ended: str = ""
    ended_s: float = 0.0
    code: int = WorkerDied.exit_code


@dataclass(frozen=True)
class Verdict:
    """`state` is WAIT, READY or FAILED; `exit_code` and `instance` (the first to blame) mean something when it is FAILED.

    `stuck` are the names of living instances that do not get on: their stacks are worth a look.
    """

    state: str
    reason: str = ""
    exit_code: int = 0
    instance: str = ""
    stuck: Tuple[str, ...] = ()


def stage_of(started: bool, reported: bool, listening: bool, healthy: bool) -> str:
    """The furthest stage; health counts only after all ranks have reported, so that a stranger on the port is never taken for ours."""
    if reported:
        return HEALTHY if healthy else LISTENING if listening else ROLE_TAKEN
    return STARTED if started else SCHEDULED


def judge(observations: Sequence[Observation], waited_s: float, limit_s: float, stall_s: float = math.inf) -> Verdict:
    """Failed as soon as one has ended, is stuck, or time is over; ready when every named instance is healthy with all its ranks; else wait.

    The first to end is blamed: others often follow it. The deadline moves while somebody who is late gets on.
    """
    ended = [one for one in observations if one.ended]
    if ended:
        first = min(ended, key=lambda one: one.ended_s)
        return Verdict(FAILED, f"{first.instance} ended: {first.ended}", first.code, first.instance)
    late = [one for one in observations if one.stage not in UP or one.missing]
    if not late:
        return Verdict(READY, f"all {len(observations)} instances are ready")
    stuck = [one for one in late if is_stuck(one, stall_s)]
    if stuck:
        head = f"{stuck[0].instance} has not got on for {stuck[0].still_s or 0:.0f} s (readiness.stall_s: {stall_s:g}):"
        return _not_ready(head, stuck)
    getting_on = any(one.still_s is not None and one.still_s < FRESH * stall_s for one in late)
    if waited_s < limit_s or (getting_on and waited_s < LONGEST * limit_s):
        return Verdict(WAIT, f"{len(late)} of {len(observations)} instances are not ready")
    head = f"{len(late)} of {len(observations)} instances not ready after {waited_s:.0f} s (readiness.limit_s: {limit_s:g}):"
    return _not_ready(head, late)


def is_stuck(one: Observation, stall_s: float) -> bool:
    """Whether it has not got on for so long that it never will."""
    return one.still_s is not None and one.still_s > stall_s and (one.idle_s > stall_s or one.still_s > BUSY * stall_s)


def _not_ready(head: str, late: Sequence[Observation]) -> Verdict:
    told = "".join(f"\n  {describe(one)}" for one in late)
    stuck = tuple(one.instance for one in late)
    return Verdict(FAILED, head + told, NotReady.exit_code, late[0].instance, stuck)


def describe(one: Observation) -> str:
    """One line about an instance: its stage, the ranks that are missing, and what it last said."""
    missing = f"no word of rank{'s' * (len(one.missing) > 1)} {_ranges(one.missing)}" if one.missing else ""
    parts = [far(one.stage, one.phase, one.percent), missing, one.detail, one.last_line and f"last line: {one.last_line}"]
    return f"{one.instance}: {'; '.join(part for part in parts if part)}"


def far(stage: str, phase: str = "", percent: Optional[int] = None) -> str:
    """A stage in words, as in "loading: weights 42 %"."""
    if stage != LOADING or not phase:
        return stage
    return f"{stage}: {phase}" + ("" if percent is None else f" {percent} %")


def _ranges(numbers: Sequence[int]) -> str:
    """1-3,7 for (1, 2, 3, 7)."""
    out, first = [], None
    for n in sorted(numbers):
        first = n if first is None else first
        if n + 1 not in numbers:
            out.append(str(n) if first == n else f"{first}-{n}")
            first = None
    return ",".join(out)
