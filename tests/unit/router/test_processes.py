"""Several processes of one router: what they may not have in common, and that none is forgotten. Each test is a program of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from disagg_launch.errors import BadInput
from disagg_launch.router import config, serve
from disagg_launch.router.processes import Siblings

BEGIN = """
import os, signal, sys, time
from disagg_launch.errors import BadInput
from disagg_launch.router import config, ids, processes, serve
"""


def program(text: str) -> subprocess.CompletedProcess[str]:
    """What became of a program within half a minute."""
    argv = [sys.executable, "-c", BEGIN + text]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_processes_that_begin_a_request_in_the_same_moment_give_it_different_ids() -> None:
    text = """
time.time_ns = lambda: 1_800_000_000 * 10**9  # the same moment for all of them

def serves(sockets, siblings):
    serve.server(config.parse({}), 1, siblings)
    os.write(1, b"%d %d\\n" % (ids.mint(), ids.mint()))
    signal.pause()

processes.run([("127.0.0.1", 0)], 3, serves)
"""
    with subprocess.Popen([sys.executable, "-c", BEGIN + text], stdout=subprocess.PIPE, text=True) as router:
        assert router.stdout
        found = [int(word) for _ in range(3) for word in router.stdout.readline().split()]
        router.terminate()
    assert len(found) == len(set(found)) == 6
    assert all(2**40 <= one < 2**63 for one in found)


def test_told_to_stop_while_a_process_is_made_it_stops_that_one_too() -> None:
    done = program("""
fork = os.fork

def told_meanwhile():
    pid = fork()
    if pid:
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = told_meanwhile
processes.run([("127.0.0.1", 0)], 2, lambda sockets, siblings: signal.pause())
""")
    assert done.returncode == 128 + 15, done.stderr


def test_what_a_process_ended_of_is_said() -> None:
    done = program("""
def serves(sockets, siblings):
    raise BadInput("keys.txt: no such file") if siblings.own else RuntimeError("some fault")

processes.run([("127.0.0.1", 0)], 2, serves)
""")
    assert "router process 1: keys.txt: no such file" in done.stderr and "RuntimeError: some fault" in done.stderr
    assert "ended again and again, last with status 1" in done.stderr


@pytest.mark.parametrize("key", ["api_keys_file", "admin_token_file", "access_log", "tls_cert_file"])
def test_a_file_that_is_not_there_is_one_sentence_before_anything_is_opened(key: str) -> None:
    raw = {"port": 1, "front_door": {key: "/nowhere/file", **({"tls_key_file": __file__} if key == "tls_cert_file" else {})}}
    with pytest.raises(BadInput, match="/nowhere/file: No such file or directory"):
        serve.run(lambda: config.parse(raw), 1)


def test_one_who_is_busy_is_told_everything_in_order_and_one_who_is_not_there_delays_nobody(tmp_path: Path) -> None:
    async def scene() -> None:
        one, busy = Siblings(tmp_path, 0, 3), Siblings(tmp_path, 1, 3)
        heard: list[bytes] = []
        one.listen(asyncio.get_running_loop(), heard.append)
        news = [b"%d" % number for number in range(1000)]  # more than the kernel holds: as when a hundred workers go at once
        for each in news:
            one.tell(each)
        busy.listen(asyncio.get_running_loop(), heard.append)
        while len(heard) < len(news):
            await asyncio.sleep(0.01)
        assert heard == news

    asyncio.run(asyncio.wait_for(scene(), 30))
