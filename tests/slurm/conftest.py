"""A real Slurm cluster for the tests of this folder: brought up once a session, left as found after every test.

Tests without one are skipped with the reason; with DISAGG_SLURM_TESTS=require (CI) they fail instead.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "slurm/testcluster/cluster.py"
NODES = 5
# what may be left on a node after a test: the node itself
ITS_OWN = ("host-init.sh", "sleep 3600", "slurmd", "ps -eo")


class Cluster:
    """A running test cluster: its node names, commands on its hosts, and faults."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.controller = f"{name}-ctl"
        self.nodes = [f"{name}{i}" for i in range(NODES)]
        self.hurt: set[str] = set()

    def tool(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the cluster tool; output is captured as text."""
        options = {"capture_output": True, "text": True, "timeout": 120, "check": True, **options}
        return subprocess.run([sys.executable, str(TOOL), "--name", self.name, *argv], **options)  # type: ignore[call-overload,no-any-return]

    def login(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host, in this process's working directory or `cwd`."""
        return self.tool("login", *argv, **options)

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

    def left_behind(self) -> dict[str, list[str]]:
        """Command lines on each node that are neither the node's nor Slurm's; a node without any is left out."""
        found = {}
        for node in self.nodes:
            lines = self.on(node, "ps", "-eo", "args", "--no-headers").stdout.splitlines()
            if strange := [line for line in lines if not any(own in line for own in ITS_OWN)]:
                found[node] = strange
        return found


def wait_for(what: Callable[[], object], limit_s: float = 60, why: str = "") -> object:
    """What `what` returns, as soon as that is true; fails the test after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not (value := what()):
        if time.monotonic() > limit:
            pytest.fail(f"waited {limit_s:.0f} s in vain {why}")
        time.sleep(0.1)
    return value


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    _install_when_asked()
    if why := subprocess.run([sys.executable, str(TOOL), "check"], capture_output=True, text=True, check=False).stderr.strip():
        if os.environ.get("DISAGG_SLURM_TESTS") == "require":
            pytest.fail(why)
        pytest.skip(why)
    with _slot() as name:
        cluster = Cluster(name)
        cluster.tool("down")
        cluster.tool("up", "--nodes", str(NODES))
        yield cluster
        cluster.tool("down")


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with every node idle; afterwards jobs are cancelled, nodes repaired, and nothing may run on any of them."""
    yield _cluster
    _cluster.login("scancel", "--user=root", check=False)
    for node in _cluster.hurt:
        _cluster.tool("node", node, "poweroff")
        _cluster.tool("node", node, "poweron")
    _cluster.hurt.clear()
    wait_for(lambda: set(_cluster.idle()) == set(_cluster.nodes), why="for every node to be idle again")
    wait_for(lambda: not _cluster.left_behind(), 10, f"for {_cluster.left_behind()} to end")


def _install_when_asked() -> None:
    if os.environ.get("DISAGG_SLURM_TESTS") == "require":
        subprocess.run([sys.executable, str(TOOL), "install"], check=True, stdout=subprocess.DEVNULL)


class _slot:
    """A cluster name that no other test session uses now: the lock dies with its holder, so a killed session leaves its name free."""

    def __enter__(self) -> str:
        for letter in "abcdefgh":
            self.lock = (Path(tempfile.gettempdir()) / f"slurm-test-session-{letter}.lock").open("w")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.lock.close()
            else:
                return f"test{letter}"
        pytest.fail("eight sessions of the Slurm tests are running already")

    def __exit__(self, *_: object) -> None:
        self.lock.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the one cluster: under pytest-xdist --dist loadgroup it runs in one worker."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")
            item.add_marker(pytest.mark.xdist_group("slurm"))
