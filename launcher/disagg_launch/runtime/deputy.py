"""The deputy: a process on another node that ends the job when Slurm says that the gateway's node is down.

A job sent with --no-kill outlives any of its nodes, also the one that its batch script and the gateway were on; nobody would be left
to end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Dict

from disagg_launch.runtime import verdict

PERIOD_S = 10.0
ANSWER_S = 30.0
RUNNING = ("starting", "ready", "stopping", "")


def main(run: str, host: str, job: str, requeue: bool) -> None:
    """Watch `host` as long as the run goes on; when it is down, say so in state/verdict.json and end the job, or have it start again."""
    former = _status(run)  # of the job's life before it was requeued, perhaps, which says nothing about this one
    while (now := _status(run)) == former or now.get("state", "") in RUNNING:
        time.sleep(PERIOD_S)
        if _asked("sinfo", "--noheader", f"--nodes={host}", "--states=down,fail", "--format=%N"):
            why = f"node {host}, which the gateway was on, is down"
            verdict.write(run, verdict.on_gateway(run, host, why))
            _asked(*(["scontrol", "requeue", job] if requeue else ["scancel", job]))
            return


def _status(run: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(run, "state", "status.json"), encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {}
    return found


def _asked(*argv: str) -> str:
    """What a Slurm command printed; "" also when the controller does not answer, which says nothing about the node."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
