"""Ports that a topology file does not give: which they are, who holds them, and where they end up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch import place, spec
from disagg_launch.backends import slurm
from disagg_launch.launch import Ports
from disagg_launch.runtime import ports

BASE = "model: m\nengine: {name: vllm}\ncontext_servers: {}\ngeneration_servers: {}\n"


@pytest.mark.parametrize(
    ("more", "workers", "router"),
    [
        ("slurm: {}\n", True, True),
        ("slurm: {}\nport: 8000\n", True, False),
        ("slurm: {}\ncluster: {base_port: 8001}\n", False, True),
        ("slurm: {}\nport: 8000\ncluster: {base_port: 8001}\n", False, False),
        ("slurm: {}\ndisagg_cluster: {cluster_uri: auto}\n", True, True),
        ("slurm: {}\ndisagg_cluster: {cluster_uri: 'http://head:8000'}\n", True, False),
    ],
)
def test_what_is_given_stays(more: str, workers: bool, router: bool) -> None:
    topology = spec.loads(BASE + more)
    found = slurm.ports(topology, place.place(topology))
    assert (found.workers, found.router, bool(found.holds)) == (workers, router, workers or router)


@given(st.integers(1025, 30_000), st.integers(0, 2000), st.integers(0, 20), st.integers(0, 20))
def test_cells_hold_all_ports_and_no_two_rises_share_one(first: int, length: int, one: int, other: int) -> None:
    made = Ports(first=first, last=first + length)
    for up in (one * ports.CELL, other * ports.CELL):
        numbers = {ports.FIRST_CELL + cell * ports.CELL + i for cell in ports.cells(made, up) for i in (0, ports.CELL - 1)}
        assert min(numbers) <= first + up
        assert first + length + up <= max(numbers)
    apart = abs(one - other) * ports.CELL > length + 2 * ports.CELL
    assert not apart or not set(ports.cells(made, one * ports.CELL)) & set(ports.cells(made, other * ports.CELL))


def test_rises_end_below_the_ports_of_clients() -> None:
    made = Ports(first=8000, last=8390)
    assert list(ports.rises(made))[:3] == [0, 512, 1024]
    assert max(ports.rises(made)) + made.last < ports.END
    assert list(ports.rises(Ports(first=40_000, last=40_100))) == [0]


def test_what_one_holds_another_does_not_get() -> None:
    """Two real holders on this host; what the first held is free when it has ended, however it ended."""
    cell = 2_000_000
    with _holder() as first, _holder() as second:
        assert _asked(first, [cell, cell + 1]) == ""
        assert "are another run's" in _asked(second, [cell + 1, cell + 2])
        assert _asked(second, [cell + 2]) == ""
        assert "are another run's" in _asked(first, [cell + 2])
        assert _asked(second, [cell]) == "", "whoever asks anew has let go of what it had"
        second.kill()
        second.wait()
        assert _asked(first, [cell]) == ""
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]
            assert f"port {port} is taken" in _asked(first, [cell], port)


def _holder() -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from disagg_launch.runtime import ports; ports.main()"]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"SLURMD_NODENAME": "here"})


def _asked(holder: subprocess.Popen[str], cells: list[int], *taken: int) -> str:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(json.dumps({"cells": cells, "ports": {"here": taken, "elsewhere": [1]}}) + "\n")
    holder.stdin.flush()
    answer = json.loads(holder.stdout.readline())
    assert answer["host"] == "here"
    return str(answer["why"])
