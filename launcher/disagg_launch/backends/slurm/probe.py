"""A site profile made by asking the cluster that this runs on."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
from typing import Literal

from disagg_launch.backends.slurm.site import Site
from disagg_launch.errors import BackendRefused

# the first that the cluster has: PMIx serves every MPI of today, the others one each
MPI_BY_PREFERENCE = ("pmix", "cray_shasta", "pmi2", "none")


def probe() -> Site:
    """The profile of this cluster, as far as Slurm tells. BackendRefused if there is no Slurm here."""
    config = dict(re.findall(r"^(\w+) += (.*)$", _asked("scontrol", "show", "config"), re.MULTILINE))
    default = re.search(r"^(\S+)\*\|(\S*)\|(\S*)$", _asked("sinfo", "-h", "-o", "%P|%G|%h"), re.MULTILINE)
    partition, gres, sharing = default.groups() if default else (None, "", "")
    mpi = _asked("srun", "--mpi=list").split()
    return Site(
        name=re.sub(r"[^A-Za-z0-9_.-]", "-", config.get("ClusterName", "here")),
        about=f"asked of {config.get('ClusterName', 'a cluster')}, Slurm {config.get('SLURM_VERSION', '?')}",
        gpus_flag=_gpus_flag(config, gres),
        mpi=next((name for name in MPI_BY_PREFERENCE if name in mpi), "none"),
        container=_container(),
        account=_account(),
        partition=partition,
        exclusive=sharing == "EXCLUSIVE",
    )


def _gpus_flag(config: dict[str, str], gres: str) -> Literal["gpus-per-node", "gres", "none"]:
    if "gpu" not in config.get("GresTypes", "") or "gpu" not in gres:
        return "none"
    # only this selector knows --gpus-per-node
    return "gpus-per-node" if config.get("SelectType") == "select/cons_tres" else "gres"


def _container() -> Literal["pyxis", "apptainer", "none"]:
    if "--container-image" in _asked("srun", "--help"):
        return "pyxis"
    return "apptainer" if shutil.which("apptainer") else "none"


def _account() -> str | None:
    """The caller's default account; None without accounting."""
    try:
        found = _asked("sacctmgr", "-nP", "show", "user", getpass.getuser(), "format=DefaultAccount").strip()
    except BackendRefused:
        return None
    return found or None


def _asked(*argv: str) -> str:
    """What a command said, on either channel: srun lists its plugins on the second."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
        raise BackendRefused(f"{argv[0]} gave no answer ({type(problem).__name__}): run this on a login node of the cluster") from None
    if done.returncode:
        raise BackendRefused(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout + done.stderr
