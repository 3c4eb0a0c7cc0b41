"""What every stand-in ends in: the embedded engine, and the checks of what the launcher gave the process."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import FrameType
from typing import NoReturn, Optional

MPI_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "SLURM_", "MPI_", "UCX_", "I_MPI_", "HYDRA_", "KMP_", "MPICH_", "MV2_", "CRAY_")


def trace(program: str) -> None:
    """Writes argv and environment of this process below STANDIN_TRACE, if that is set."""
    if folder := os.environ.get("STANDIN_TRACE"):
        seen = {"program": program, "argv": sys.argv[1:], "environ": dict(os.environ), "pid": os.getpid()}
        Path(folder, f"{program}-{uuid.uuid4().hex}.json").write_text(json.dumps(seen))


def visible_gpus() -> list[str]:
    """The ids in CUDA_VISIBLE_DEVICES. Unset would be every GPU of the node, which no launched worker may take."""
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        sys.exit("RuntimeError: CUDA_VISIBLE_DEVICES is not set: this worker would take every GPU of the node")
    ids = [one for one in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if one]
    if len(set(ids)) != len(ids):
        sys.exit(f"RuntimeError: CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} names a GPU twice")
    return ids


def check_ucx() -> None:
    """NIXL cannot register GPU memory through TCP alone."""
    if os.environ.get("UCX_TLS") == "tcp":
        sys.exit("RuntimeError: NIXL cannot register GPU memory with UCX_TLS=tcp")


def command(host: str, port: int, role: Optional[str], config: Optional[str] = None) -> list[str]:
    """The embedded engine's command line."""
    model = os.environ.get("STANDIN_MODEL", "random:7")
    argv = [sys.executable, "-m", "disagg_launch.reference", model, "--host", host, "--port", str(port)]
    argv += ["--server_role", role.upper()] if role else []
    return argv + (["--config", config] if config else [])


def without_mpi() -> dict[str, str]:
    """This environment without what an MPI launcher left in it, and without what a real engine knows nothing of."""
    return {name: value for name, value in os.environ.items() if not name.startswith((*MPI_PREFIXES, "DISAGG_"))}


def become(argv: list[str]) -> NoReturn:
    """This process goes on as `argv`, without the launcher's MPI variables."""
    sys.stdout.flush()
    os.execve(argv[0], argv, without_mpi())


def die_with_parent() -> None:
    """Linux ends this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def start(argv: list[str], **environ: str) -> subprocess.Popen[bytes]:
    """`argv` as a child that gets our TERM and INT; without the launcher's MPI variables, with `environ`."""
    child = subprocess.Popen(argv, env={**without_mpi(), **environ}, preexec_fn=die_with_parent)

    def pass_on(number: int, frame: Optional[FrameType]) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return child
