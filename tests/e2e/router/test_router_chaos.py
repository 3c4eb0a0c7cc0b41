"""Hundreds of streams while workers are killed, stopped and started again: each ends with the right full text or an explicit error."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from scene import read_answer, request
from standin import expected

STANDIN = Path(__file__).with_name("standin.py")
STREAMS, TOKENS, PAUSE_S = 200, 50, 0.02
LEEWAY_BYTES = 8 << 20  # for what the allocator does not give back at once
SOAK_S = float(os.environ.get("SOAK_S", "0"))  # `make soak` goes on for so long


class Process:
    """One stand-in as a process that comes back at the same port, held for it: a free one can become any connection's meanwhile."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.start()

    def start(self) -> None:
        argv = [sys.executable, str(STANDIN), self.role, str(self.port), str(PAUSE_S)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def stream(port: int, number: int) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request("POST", "/v1/completions", {"prompt": f"prompt {number}", "max_tokens": TOKENS, "stream": True}))
        return await read_answer(reader)
    finally:
        writer.close()


async def havoc(workers: list[Process]) -> None:
    """Kill or stop one worker after the other; the first of each role is left alone, so that there is always somebody."""
    victims = [workers[3], workers[4], workers[1], workers[5]]
    for turn in itertools.count():
        victim = victims[turn % len(victims)]
        if turn % 3 == 1:
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2.0)  # long enough to be found silent and given up
            victim.process.send_signal(signal.SIGCONT)
        else:
            victim.end()
            await asyncio.sleep(0.2)
            victim.start()
        await asyncio.sleep(0.3)


async def play_it(port: int, workers: list[Process], router: psutil.Process) -> None:
    while b" 200 " not in await _raw(port, request("GET", "/health")):
        await asyncio.sleep(0.05)
    await wave(port, 50)
    baseline = router.memory_info().rss
    breaking = asyncio.ensure_future(havoc(workers))
    until = time.monotonic() + SOAK_S
    while True:
        right = await wave(port, STREAMS)
        assert right > 0.9 * STREAMS
        assert not breaking.done() or breaking.result() is None, "the havoc ended too early"
        if time.monotonic() >= until:
            break
        assert router.memory_info().rss < baseline + LEEWAY_BYTES
    breaking.cancel()
    page = (await _raw(port, request("GET", "/metrics"))).decode()
    assert int(page.split("\nresumed_streams_total ")[1].split("\n")[0]) > 0
    for line in page.splitlines():
        assert not line.startswith("worker_active_requests{") or line.endswith(" 0"), line
    while len(router.net_connections()) > 2 + 2 * len(workers):  # its port, this look, and probes: idle ones are closed in time
        await asyncio.sleep(0.2)
    assert router.memory_info().rss < baseline + LEEWAY_BYTES


async def wave(port: int, count: int) -> int:
    """How many of `count` streams had no error; all the others said that they had."""
    answers = await asyncio.wait_for(asyncio.gather(*(later(port, i) for i in range(count))), 50)
    right = 0
    for number, answer in enumerate(answers):
        wanted = expected(f"prompt {number}", TOKENS)
        if answer.status == 200 and not any("error" in e for e in answer.events):
            assert answer.done and answer.text == wanted
            right += 1
        elif answer.status == 200:
            assert answer.done and wanted.startswith(answer.text)
        else:
            assert answer.status in (502, 503) and "message" in answer.json["error"]
    return right


async def later(port: int, number: int) -> Any:
    await asyncio.sleep(number * 0.02)
    return await stream(port, number)


async def _raw(port: int, raw: bytes) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    writer.write(raw)
    said = await reader.read()
    writer.close()
    return said


def test_every_stream_ends_right_or_says_why(tmp_path: Path) -> None:
    workers = [Process("context"), Process("context"), *(Process("generation") for _ in range(4))]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    door = {"health_interval_s": 0.2, "health_timeout_s": 0.3, "connect_timeout_s": 0.5, "stall_timeout_s": 5, "request_timeout_s": 10}
    config: dict[str, Any] = {"hostname": "127.0.0.1", "port": port, "max_retries": 3, "front_door": door}
    config["context_servers"] = {"urls": [f"127.0.0.1:{w.port}" for w in workers[:2]]}
    config["generation_servers"] = {"urls": [f"127.0.0.1:{w.port}" for w in workers[2:]], "router": {"type": "load_balancing"}}
    (tmp_path / "router.yaml").write_text(json.dumps(config))
    with (tmp_path / "log").open("wb") as log:
        router = subprocess.Popen(
            [sys.executable, "-m", "disagg_launch", "router", "--config", str(tmp_path / "router.yaml")], stdout=log, stderr=log
        )
    try:
        asyncio.run(play_it(port, workers, psutil.Process(router.pid)))
        router.terminate()
        assert router.wait(10) == -signal.SIGTERM and b"Traceback" not in (tmp_path / "log").read_bytes()
    finally:
        router.kill()
        router.wait()
        for worker in workers:
            worker.process.send_signal(signal.SIGCONT)
            worker.end()
