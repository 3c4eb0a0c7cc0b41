"""Likely causes of a worker's death, as data: the first entry whose pattern is in the last log lines names one thing to do."""

from __future__ import annotations

import re
from typing import Iterable, NamedTuple, Optional


class Cause(NamedTuple):
    """What a pattern in a log means, and one thing to do about it."""

    pattern: str
    cause: str
    remedy: str


CAUSES = (
    Cause(
        r"CUDA out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY",
        "the GPU ran out of memory",
        "lower free_gpu_memory_fraction or max_batch_size",
    ),
    Cause(
        r"[Aa]ddress already in use|EADDRINUSE|is taken \(",
        "the port is in use",
        "end what listens there, or give cluster.base_port",
    ),
    Cause(
        r"No space left on device|ENOSPC|Disk quota exceeded",
        "the disk is full",
        "free some space or move the run folder",
    ),
    Cause(
        r"worlds? of size 1|COMM_WORLD has size",
        "mpirun and the MPI library belong to different builds",
        "set mpi.flavor to the library's",
    ),
    Cause(
        r"render the run again",
        "the run folder was rendered again, or edited, after the step's script",
        "run `disagg-launch render` again",
    ),
    Cause(
        r"No module named|ModuleNotFoundError|ImportError",
        "a Python package is missing in the worker's environment",
        "set engine.python",
    ),
    Cause(
        r"GPU slot .* is not there|invalid device ordinal",
        "a planned GPU is not there",
        "correct cluster.gpus_per_node",
    ),
    Cause(
        r"GatedRepoError|401 Client Error|403 Client Error",
        "the model needs a licence or a token",
        "give HF_TOKEN in env, after accepting the licence",
    ),
    Cause(
        r"No such file or directory|FileNotFoundError|was not found",
        "a file or program is missing",
        "check the model path and the engine's installation",
    ),
    Cause(
        r"NCCL (?:WARN|error)|ncclSystemError|ncclInternalError",
        "NCCL could not talk",
        "set NCCL_SOCKET_IFNAME in env, and NCCL_DEBUG=INFO to see more",
    ),
    Cause(
        r"UCX +ERROR|UCS_ERR|nixl.*(?:error|fail)",
        "the KV transport could not be set up",
        "set UCX_NET_DEVICES, or unset UCX_TLS, in env",
    ),
    Cause(
        r"PMIx?[_ ].*(?:ERROR|error|abort)|PMI_Init|orte_init failed",
        "MPI could not reach its launcher",
        "give the site's slurm.mpi",
    ),
    Cause(
        r"MemoryError|Cannot allocate memory|oom-kill|Out of memory",
        "the host ran out of memory",
        "lower the number of instances per node",
    ),
)
KILLED = Cause("", "the kernel or the batch system killed it, most often for memory", "look at `dmesg` and at the job's memory limit")


def explain(lines: Iterable[str], ended: str = "") -> Optional[Cause]:
    """The first cause that fits the last lines of a log; None when there is none in the table."""
    text = "\n".join(lines)
    for cause in CAUSES:
        if re.search(cause.pattern, text):
            return cause
    return KILLED if "SIGKILL" in ended else None
