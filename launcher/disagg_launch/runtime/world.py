"""The in-process form of a worker: one Split of the launcher's world, then a function called with its instance's communicator.

Run as `python -m mpi4py runtime.pyz world ...`: mpi4py's runner aborts the whole world when one rank fails, so none hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any, List, Mapping, Optional

from disagg_launch.errors import RankRefused
from disagg_launch.runtime import processes, wire
from disagg_launch.runtime.names import GATEWAY, RUN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The task's place in the world; the bootstrap writes them."""
    parser.add_argument("--size", type=int, required=True, help="ranks in the world")
    parser.add_argument("--colour", type=int, required=True, help="number of the instance")
    parser.add_argument("--key", type=int, required=True, help="rank in the instance")
    parser.add_argument("--count", type=int, required=True, help="ranks in the instance")
    parser.add_argument("target", help="module:function")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(options: argparse.Namespace) -> Any:
    """What the function returns when it is called with (arguments, communicator). RankRefused when the world is not the planned one."""
    try:
        comm = split(options.size, options.colour, options.key, options.count)
    except RankRefused as refused:
        _tell(refused, os.environ)
        raise
    module, _, function = options.target.partition(":")
    return getattr(_import(module), function)(options.arguments, comm)


def split(size: int, colour: int, key: int, count: int) -> Any:
    """The communicator of instance number `colour`, in which this task has rank `key` of `count`."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.Get_size() != size:
        library = MPI.Get_library_version().splitlines()[0]
        raise RankRefused(
            f"MPI.COMM_WORLD has size {world.Get_size()}, the step has {size} tasks: the launcher (mpirun, or srun --mpi) is not that of "
            f"the MPI library that mpi4py loaded ({library}); use the launcher of that library",
            RankRefused.WRONG_WORLD_SIZE,
        )
    comm = world.Split(colour, key)
    if (comm.Get_size(), comm.Get_rank()) != (count, key):
        found = f"rank {comm.Get_rank()} of {comm.Get_size()}"
        raise RankRefused(
            f"the instance's communicator gives this task {found}, the plan says {key} of {count}: start the step with its own script",
            RankRefused.WRONG_WORLD_SIZE,
        )
    return comm


def _tell(refused: RankRefused, environ: Mapping[str, str]) -> None:
    """Tell the gateway why: what an MPI library says at its end would bury it."""
    message = {"kind": "refusal", "instance": environ.get("DISAGG_INSTANCE"), "why": str(refused), "code": refused.exit_code}
    with contextlib.suppress(KeyError, OSError, ValueError):  # no gateway is no reason to refuse for
        wire.ask(environ[GATEWAY], wire.read_token(environ[RUN]), message)


def _import(module: str) -> Any:
    """The worker's module, from the worker's own environment: the zipapp's few modules must not hide the installed package."""
    archive = processes.own_archive()
    if archive:
        sys.path[:] = [entry for entry in sys.path if entry != archive]
        for name in [n for n in sys.modules if n.partition(".")[0] == "disagg_launch"]:
            del sys.modules[name]
    return importlib.import_module(module)


def main(argv: Optional[List[str]] = None) -> None:
    """`python -m mpi4py -m disagg_launch.runtime.world`: the same from an installed package."""
    parser = argparse.ArgumentParser(prog="world")
    add_arguments(parser)
    try:
        code = run(parser.parse_args(argv))
    except RankRefused as refused:
        print(f"disagg-launch: {refused}", file=sys.stderr)
        code = refused.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
