"""The judge: from what was seen of every instance to wait, ready or failed. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

from disagg_launch.errors import NotReady, WorkerDied

SCHEDULED, STARTED, ROLE_TAKEN, LISTENING, HEALTHY = STAGES = ("scheduled", "started", "role taken", "listening", "healthy")
WAIT, READY, FAILED = "wait", "ready", "failed"


@dataclass(frozen=True)
class Observation:
    """What is known of one instance now.

    `missing`: its ranks (global numbers) that have not reported. `detail`: what its probe saw; `last_line`: what it last said.
    `ended`: how it ended ("rank 0 on node3: exit code 3"), "" while it lives; `ended_s` when, on the gateway's clock.
    `code`: the exit status that its end deserves.
    """

    instance: str
    stage: str = SCHEDULED
    missing: Tuple[int, ...] = ()
    detail: str = ""
    last_line: str = ""
    ended: str = ""
    ended_s: float = 0.0
    code: int = WorkerDied.exit_code


@dataclass(frozen=True)
class Verdict:
    """`state` is WAIT, READY or FAILED; `exit_code` and `instance` (the first to blame) mean something when it is FAILED."""

    state: str
    reason: str = ""
    exit_code: int = 0
    instance: str = ""


def stage_of(started: bool, reported: bool, listening: bool, healthy: bool) -> str:
    """The furthest stage; health counts only after all ranks have reported, so that a stranger on the port is never taken for ours."""
    if reported:
        return HEALTHY if healthy else LISTENING if listening else ROLE_TAKEN
    return STARTED if started else SCHEDULED


def judge(observations: Sequence[Observation], waited_s: float, limit_s: float) -> Verdict:
    """Failed as soon as one has ended or time is over, ready when every named instance is healthy with all its ranks, else wait.

    The first to end is blamed: others often follow it.
    """
    ended = [one for one in observations if one.ended]
    if ended:
        first = min(ended, key=lambda one: one.ended_s)
        return Verdict(FAILED, f"{first.instance} ended: {first.ended}", first.code, first.instance)
    late = [one for one in observations if one.stage != HEALTHY or one.missing]
    if not late:
        return Verdict(READY, f"all {len(observations)} instances are ready")
    if waited_s < limit_s:
        return Verdict(WAIT, f"{len(late)} of {len(observations)} instances are not ready")
    told = "".join(f"\n  {describe(one)}" for one in late)
    return Verdict(
        FAILED,
        f"{len(late)} of {len(observations)} instances not ready after {limit_s:g} s (readiness.limit_s):{told}",
        NotReady.exit_code,
        late[0].instance,
    )


def describe(one: Observation) -> str:
    """One line about an instance: its stage, the ranks that are missing, and what it last said."""
    missing = f"no word of rank{'s' * (len(one.missing) > 1)} {_ranges(one.missing)}" if one.missing else ""
    parts = [one.stage, missing, one.detail, one.last_line and f"last line: {one.last_line}"]
    return f"{one.instance}: {'; '.join(part for part in parts if part)}"


def _ranges(numbers: Sequence[int]) -> str:
    """1-3,7 for (1, 2, 3, 7)."""
    out, first = [], None
    for n in sorted(numbers):
        first = n if first is None else first
        if n + 1 not in numbers:
            out.append(str(n) if first == n else f"{first}-{n}")
            first = None
    return ",".join(out)
