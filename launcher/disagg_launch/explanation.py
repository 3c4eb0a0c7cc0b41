"""Why a run is as it is: the verdict as it was written, made again where nobody could write one, or what Slurm says of a job that waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from disagg_launch.errors import BadInput
from disagg_launch.runtime import causes, chronicle, verdict
from disagg_launch.runtime.causes import JOB
from disagg_launch.runtime.readiness import FAILED
from disagg_launch.runtime.sieve import LATER
from disagg_launch.runtime.verdict import BLANK, Told
from disagg_launch.watch.state import LIVING, status

LOST, RENDERED = "lost", "rendered"
NOTHING_FAILED = "nothing has failed"


def explanation(run: Path) -> Told:
    """What `explain` prints, with every key of state/verdict.json. `state` is "failed" only if there is something to explain."""
    if not (run / "plan.json").exists():
        raise BadInput(f"{run}: no run folder (it has no plan.json); name one that `disagg-launch up` or `submit` made, or a job's id")
    found = status(run)
    job = str(found.get("job", ""))
    written = read(run)
    if found["state"] in LIVING and "instances" in found:
        return _going_on(run, found)
    if written and found["state"] != RENDERED:
        return written
    if "instances" in found:
        return verdict.rebuilt(str(run), job)
    return _not_begun(run, found["state"], job)


def read(run: Path) -> Told:
    """state/verdict.json with every key; {} if there is none."""
    try:
        return {**BLANK, **json.loads((run / verdict.PATH).read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        return {}


def _going_on(run: Path, found: dict[str, Any]) -> Told:
    story = chronicle.read(str(run))
    degraded = found.get("degraded", {})
    down = [f"{name} cannot be started now: {why}" for name, why in degraded.items()]
    others = [end for name, end in story.dead.items() if name not in degraded and name not in found.get("resting", ())]
    down += [f"{end.instance} ended and is being restarted: {end.text}" for end in others]
    reason = "; ".join(down) or NOTHING_FAILED
    if degraded:
        return {**verdict.judged(str(run), FAILED, f"degraded: {reason}", 0, next(iter(degraded))), "state": found["state"]}
    return {**BLANK, "state": found["state"], "reason": reason, "restarts": verdict.restarts(str(run), story)}


def _not_begun(run: Path, state: str, job: str) -> Told:
    """No gateway has written anything: the job waits, or ended before one began."""
    if state == RENDERED:
        return {**BLANK, "state": state, "reason": f"nothing has been started here: `disagg-launch up` or `submit` does, with --run {run}"}
    log = max((run / "logs").glob("job-*.log"), default=None, key=lambda path: path.stat().st_mtime)
    said = verdict.last_lines(str(run), f"logs/{log.name}", LATER) if log and state == "ended" else []
    cause = causes.fits(job, JOB) or causes.explain(said)
    told = {**BLANK, "state": FAILED if state == "ended" else state, "reason": job, **(cause.in_words() if cause else {})}
    return {**told, "last_lines": said, "log": f"logs/{log.name}"} if log and said else told


def lines(told: Told) -> list[str]:
    """An explanation for people."""
    # what Slurm says of a job that waits has its state in it
    said = told["reason"] if told["state"] == "pending" else f"{told['state']}: {told['reason']}"
    out = [said, *verdict.paragraphs(told)]
    for one in told["restarts"]:
        why = f" (likely: {one['cause']}; {one['remedy']})" if one["cause"] else ""
        out.append(f"restarted before: {one['instance']} at {one['at']}, after {one['how']}{why}")
    return out
