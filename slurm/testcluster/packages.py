"""The Debian packages a cluster is made of, and what a machine lacks to run one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "libpmix2", "openmpi-bin", "iproute2", "util-linux")
# what the tests use beside a cluster: program -> package
TOOLS = {"etcd": "etcd-server", "curl": "curl", "chromium": "chromium", "chromedriver": "chromium-driver"}
ACCOUNTING = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "srun", "munged", "ip", "nsenter", "unshare", "mpirun")
POLICY = Path("/usr/sbin/policy-rc.d")


def lacking(accounting: bool = False) -> str:
    """Why no cluster can run here, in one sentence; "" if one can."""
    if os.geteuid() != 0:
        return "the Slurm test cluster needs root (it makes network namespaces)"
    programs = PROGRAMS + (("slurmdbd", "mariadbd") if accounting else ())
    missing = [name for name in programs if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")]
    if missing:
        return f"{', '.join(missing)} not installed: run `python3 slurm/testcluster/cluster.py install`"
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode:
        return "this machine does not let root make namespaces (unshare --net --mount failed)"
    return ""


def install(accounting: bool = False) -> None:
    """Install the packages that a cluster and the tests need, in one apt call; no daemon is started."""
    tools = tuple(package for program, package in TOOLS.items() if not shutil.which(program))
    if not lacking(accounting) and not tools:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit("installing needs root and apt-get; the packages are " + " ".join(PACKAGES + tools))
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    with _no_daemons():
        subprocess.run([*apt, "update"], check=True, env=environ)
        names = PACKAGES + tools + (ACCOUNTING if accounting else ())
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", *names], check=True, env=environ)


@contextmanager
def _no_daemons() -> Iterator[None]:
    """While open, packages do not start their services: the policy program says 101, "not allowed"."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
