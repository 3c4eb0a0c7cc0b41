"""The state of a deployment in one word, with what its gateway wrote last: the one place that says "lost"."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import folder

if TYPE_CHECKING:
    from disagg_launch.backends.slurm.jobs import Seen

LIVING = ("starting", "ready", "stopping")
SLURM_S = 10.0
"""Who looks again and again asks Slurm not more often than this."""


class Status:
    """`status` for those who ask again and again: what Slurm said is remembered for SLURM_S."""

    def __init__(self) -> None:
        self._asked = -SLURM_S
        self._job: Optional[Seen] = None

    def __call__(self, run: Path) -> dict[str, Any]:
        """As `status`."""
        if not (run / "job.json").exists():
            return status(run)
        from disagg_launch.backends.slurm import jobs

        if time.monotonic() - self._asked >= SLURM_S:
            self._asked, self._job = time.monotonic(), jobs.ask(jobs.job_of(run) or "")
        return jobs.status_now(run, self._job)


def status(run: Path) -> dict[str, Any]:
    """What the gateway wrote last; `state` is "lost" if it claims to run and no gateway answers, "rendered" if none ever ran.

    `job` is what Slurm says of it.
    """
    if (run / "job.json").exists():
        from disagg_launch.backends.slurm import jobs

        return jobs.status_now(run)
    found = read_json(run / "state" / "status.json")
    if found is None:
        return {"state": "rendered"}
    if found["state"] in LIVING:
        try:
            found["state"] = folder.call(str(run.resolve()), {"kind": "state"})["state"]
        except BackendRefused:
            found["state"] = "lost"
    return found


def read_json(path: Path) -> Optional[dict[str, Any]]:
    """The object in a file; None if it is not there, or is being replaced."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
