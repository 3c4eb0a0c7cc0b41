"""All tasks of a step side by side on this machine, for engines that find each other without MPI: what mpirun is to ranks of a world."""

from __future__ import annotations

import os
import signal
import sys
from typing import Dict, Mapping

from disagg_launch.errors import DisaggError
from disagg_launch.runtime import bootstrap, manifest, processes
from disagg_launch.runtime.launchers import LAUNCHERS
from disagg_launch.runtime.tasks import tasks_of

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(run: str, step: str, digest: str, environ: Mapping[str, str]) -> int:
    """Fork one child per task, each of which becomes its worker; the first failure ends the others. Its exit status, else 0."""
    plan, launch = manifest.read(run)
    start = next(s for s in launch.starts if s.step == step)
    count = len(tasks_of(plan, start, launch.workers))
    processes.die_with_parent()
    children: Dict[int, int] = {}
    for number in FORWARDED:
        signal.signal(number, lambda got, _: processes.send(children, got))
    for task in range(count):
        child = os.fork()
        if child == 0:
            _become(run, step, digest, {**environ, LAUNCHERS["local"].rank: str(task), LAUNCHERS["local"].size: str(count)})
        children[child] = task
    return _collect(children)


def _become(run: str, step: str, digest: str, environ: Mapping[str, str]) -> None:
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    try:
        processes.die_with_parent()
        bootstrap.main(run, "local", step, digest, environ)
    except DisaggError as refusal:
        print(f"disagg-launch: {refusal}", file=sys.stderr, flush=True)
        os._exit(refusal.exit_code)
    finally:
        os._exit(1)


def _collect(children: Dict[int, int]) -> int:
    """Wait for all; 128 + signal for one that was killed."""
    first = 0
    while children:
        pid, status = os.wait()
        if children.pop(pid, None) is None:
            continue
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if code and not first:
            first = code
            processes.ask_to_end(set(children))
    return first
