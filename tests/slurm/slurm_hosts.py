"""The test cluster as the tests see it: its nodes, commands on them, and their faults."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "slurm/testcluster/cluster.py"
NODES = 6
# what may be left on a node after a test: the node itself
ITS_OWN = ("host-init.sh", "sleep 3600", "slurmd")


class Cluster:
    """A running test cluster: its node names, commands on its hosts, and faults."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.controller = f"{name}-ctl"
        self.nodes = [f"{name}{i}" for i in range(NODES)]
        self.hurt: set[str] = set()
        self.enter = ""

    def tool(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the cluster tool; output is captured as text."""
        options = {"capture_output": True, "text": True, "timeout": 120, "check": True, **options}
        return subprocess.run([sys.executable, str(TOOL), "--name", self.name, *argv], **options)  # type: ignore[call-overload,no-any-return]

    def login(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host, in this process's working directory or `cwd`."""
        options = {"capture_output": True, "text": True, "timeout": 120, "check": True, **options}
        return subprocess.run([self.enter, *argv], **options)  # type: ignore[call-overload,no-any-return]

    def on(self, node: str, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on a node."""
        return self.tool("on", node, *argv, **options)

    def fault(self, node: str, what: str) -> None:
        """cut, heal, poweroff, poweron, kill-slurmd or start-slurmd."""
        self.hurt.add(node)
        self.tool("node", node, what)

    def idle(self) -> list[str]:
        """The nodes Slurm could give to a job now."""
        return self.login("sinfo", "-h", "-N", "-p", "batch", "-t", "idle", "-o", "%N").stdout.split()

    def up(self, nodes: int = NODES) -> None:
        """Bring it up."""
        self.tool("up", "--nodes", str(nodes))
        self.enter = self.tool("env").stdout.split("=")[1].split(":")[0] + "/login"

    def left_behind(self) -> list[str]:
        """What runs on the nodes, as "node command", that is neither the node's nor Slurm's."""
        return [line for line in self.tool("ps").stdout.splitlines() if not any(own in line for own in ITS_OWN)]


def wait_for(what: Callable[[], object], limit_s: float = 60, why: str = "") -> object:
    """What `what` returns, as soon as that is true; fails the test after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not (value := what()):
        if time.monotonic() > limit:
            pytest.fail(f"waited {limit_s:.0f} s in vain {why}")
        time.sleep(0.1)
    return value
