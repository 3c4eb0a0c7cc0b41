"""Stand-in for `trtllm-llmapi-launch CMD...`: one copy per MPI task; rank 0 runs CMD, and all ranks form one MPI world.

As the real wrapper: the rank is the first of SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK, PMI_ID; the world size SLURM_NTASKS or
OMPI_COMM_WORLD_SIZE, else 1. CMD runs without the MPI variables, and finds the world in `tllm_mpi_size` and the leader behind
TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR. The leader refuses a world that differs from the communicator, CMD's exit code is the wrapper's.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time

import serving


def first(*names: str) -> str | None:
    """The value of the first variable that is set."""
    return next((os.environ[name] for name in names if name in os.environ), None)


def world(size: int) -> object:
    """COMM_WORLD, entered by every rank; exits if it has not `size` ranks."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.size != size:
        sys.exit(f"ValueError: n_workers must be equal to the size of MPI.COMM_WORLD: {size} tasks were started, the world has {comm.size}")
    return comm


def wait_for_end(comm: object, ended: object) -> int:
    """Rank 0 tells all ranks its command's exit status when `ended()` gives one; a waiting rank sleeps, it does not spin."""
    request = comm.Ibarrier  # type: ignore[attr-defined]
    status = None
    while status is None and ended is not None:
        status = ended()  # type: ignore[operator]
        time.sleep(0.05)
    barrier = request()
    while not barrier.Test():
        time.sleep(0.05)
    return int(status or 0)


def main(words: list[str]) -> int:
    """Exit status: the command's own on rank 0, 0 on the others."""
    serving.trace("trtllm-llmapi-launch")
    if not words:
        print("Usage: trtllm-llmapi-launch CMD...", file=sys.stderr)
        return 1
    rank = int(first("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMI_ID") or 0)
    size = int(first("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE") or 1)
    os.environ.setdefault("TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR", "tcp://127.0.0.1:10012")
    os.environ.update(tllm_mpi_size=str(size), TLLM_SPAWN_PROXY_PROCESS="1")
    comm = world(size) if size > 1 else None
    if rank > 0:
        # rank 0's are counted by the command it runs, which may be the front door and need none
        serving.visible_gpus()
        print(f"run mgmn worker node with mpi_rank: {rank}", flush=True)
        return wait_for_end(comm, None)
    os.environ["TLLM_SPAWN_PROXY_PROCESS_IPC_HMAC_KEY"] = secrets.token_hex(32)
    child: subprocess.Popen[bytes] = serving.start(words)
    status = wait_for_end(comm, child.poll) if comm else child.wait()
    # early versions left with the leader's status, whatever became of the command
    return 0 if os.environ.get("STANDIN_WRAPPER") == "early" else status


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.exit(128 - code if code < 0 else code)
