"""Who gives nodes and starts steps: one module per backend, chosen by name.

A backend module offers `render(spec, plan, workers, python) -> (starts, files)`, pure: one `launch.Start` for each step and the files
that start it (steps/*.sh, host files, job.sbatch). `python` is the interpreter on the nodes. What a backend does to the outside
world (asking Slurm for the node list, submitting) stands in functions of its own beside it; a dry run is not calling them.

To add a backend: write the module, name it in BACKENDS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.launch import Start, Worker
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

BACKENDS = ("local", "mpirun", "slurm")


class Backend(Protocol):
    """What a backend module looks like."""

    def render(self, spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
        """How each step is started, and the files that do it."""


def load(name: str) -> Backend:
    """The backend module called `name`, one of BACKENDS; KeyError otherwise."""
    if name not in BACKENDS:
        raise KeyError(name)
    return cast(Backend, importlib.import_module(f"disagg_launch.backends.{name}"))
