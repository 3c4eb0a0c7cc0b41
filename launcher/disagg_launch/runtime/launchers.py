"""How each launcher tells a task its number, as data. The launcher is named in the command line, never guessed.

Guessing is wrong as soon as launchers nest: under `mpirun` inside a Slurm job every rank sees SLURM_PROCID=0.
"""

from __future__ import annotations

import re

from disagg_launch.errors import RankRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Pattern

NEVER = r"(?!)"
AFTERWARDS = "Terminated"
"""How tasks end that a launcher ends after the one that failed; it may tell of them first."""


class Launcher:
    """One launcher's variables and habits.

    `rank`, `size`: names of its variables. `alone`: without them there is one task, number 0 (a plain process).
    `gpu_count`: the variable with the number of GPUs that this step has on the node, for a launcher that hands them to steps:
    CUDA_VISIBLE_DEVICES is then what the step, or the task, was given, and not what the node has.
    `adopts`: the task's parent dies with the launcher, so a task may tie its life to its parent's.
    `label`: matches the mark that the launcher puts before each line of output; group 1 is the task number.
    `mixes`: it passes output on in pieces, so that lines of several ranks run into each other; each rank then sends its output to
    the gateway itself.
    `blames`: matches a line, of the launcher or of an MPI library, that tells which task failed first; a group is its number, and
    group "how" how it ended.
    """

    def __init__(
        self,
        rank: str,
        size: str,
        *,
        alone: bool = False,
        gpu_count: str = "",
        adopts: bool = False,
        label: str = NEVER,
        mixes: bool = False,
        blames: str = NEVER,
    ) -> None:
        self.rank, self.size, self.alone, self.gpu_count, self.adopts = rank, size, alone, gpu_count, adopts
        self.label, self.mixes, self.blames = label, mixes, blames


LAUNCHERS: Mapping[str, Launcher] = {
    # its child is tied to the gateway by the gateway, and the tasks of `spread` are tied by spread
    "local": Launcher("DISAGG_TASK", "DISAGG_TASKS", alone=True, mixes=True),
    "hydra": Launcher(
        "PMI_RANK",
        "PMI_SIZE",
        adopts=True,
        label=r"^\[(\d+)\] ",
        mixes=True,
        blames=r"application called MPI_Abort\(.*\) - process (\d+)",
    ),
    "openmpi": Launcher(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        adopts=True,
        label=r"^\[[^\]]*?(\d+)\]<std(?:out|err)>: ?",
        mixes=True,
        blames=r"MPI_ABORT was invoked on rank (\d+) in communicator MPI_COMM_WORLD|noticed that process rank (\d+) with PID",
    ),
    "slurm": Launcher(
        "SLURM_PROCID",
        "SLURM_NTASKS",
        gpu_count="SLURM_GPUS_ON_NODE",
        label=r"^ *(\d+): ",
        blames=r"^srun: error: \S+: tasks? (\d+)[-,\d]*: (?:Exited with )?"
        rf"(?P<how>exit code \d+|Killed|{AFTERWARDS}|Segmentation fault|Aborted|Bus error|Out Of Memory)",
    ),
}


def place_of(name: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """(task number, task count) as launcher `name` says it in `environ`.

    RankRefused NO_RANK when its variables are not there or are not numbers.
    """
    launcher = LAUNCHERS[name]
    if launcher.alone and launcher.rank not in environ:
        return 0, 1
    try:
        return int(environ[launcher.rank]), int(environ[launcher.size])
    except (KeyError, ValueError):
        found = ", ".join(f"{n}={environ[n]!r}" if n in environ else f"{n} is not set" for n in (launcher.rank, launcher.size))
        raise RankRefused(
            f"this task was not started by {name}: {found}; start it with the step's script, or name the launcher that starts it",
            RankRefused.NO_RANK,
        ) from None


def label_of(name: str) -> Pattern[str]:
    """The pattern of the mark before each line; it never matches when the launcher puts none."""
    return re.compile(LAUNCHERS[name].label)


def blame_of(name: str, text: str) -> Optional[tuple[int, str]]:
    """The task that a line of output says failed first, and how it ended if that is told; None for every other line."""
    found = re.search(LAUNCHERS[name].blames, text)
    return (int(next(group for group in found.groups() if group)), found.groupdict().get("how", "")) if found else None
