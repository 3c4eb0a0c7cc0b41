"""A real Slurm cluster for the tests of this folder: brought up once a session, left as found after every test.

Tests without one are skipped with the reason; with DISAGG_SLURM_TESTS=require (CI) they fail instead.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_hosts import TOOL, Cluster, wait_for


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
        cluster.up()
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
