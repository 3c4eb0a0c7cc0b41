"""The router as a program: several processes on one port, stopped, read anew, killed; and what it lets others see of its secrets."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from scene import Answer, read_answer, request
from standin import StandIn, expected

from disagg_launch.router import access

ADMIN = {"authorization": "Bearer adm-secret"}


class Program:
    """`disagg-launch router` over stand-ins of this test."""

    def __init__(self, folder: Path, workers: list[StandIn], words: tuple[str, ...], **door: Any) -> None:
        self.workers = workers
        self._door = {"health_interval_s": 0.1, "health_timeout_s": 2, "admin_token_file": str(folder / "token"), **door}
        self._path, self.log = folder / "router.yaml", folder / "log"
        (folder / "token").write_text("adm-secret")
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.write(workers)
        argv = [sys.executable, "-m", "disagg_launch", "router", "--config", str(self._path), *words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "SOME_KEYS": "env-secret"})

    def write(self, workers: list[StandIn], **door: Any) -> None:
        config: dict[str, Any] = {"hostname": "127.0.0.1", "port": self.port, "front_door": {**self._door, **door}}
        for name, role in (("context_servers", "context"), ("generation_servers", "generation")):
            config[name] = {"urls": [w.url for w in workers if w.role == role]}
        self._path.write_text(json.dumps(config))

    async def send(self, raw: bytes) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            return await read_answer(reader)
        finally:
            writer.close()

    async def complete(self, count: int = 2, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        return await self.send(request("POST", "/v1/completions", {"prompt": "hello", "max_tokens": count, **more}, headers))

    async def until(self, status: int, raw: bytes) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (await self.send(raw)).status == status:
                    return
            assert self.process.poll() is None, self.log.read_text()
            await asyncio.sleep(0.05)

    async def until_listed(self, worker: StandIn) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if worker.url.encode() in (await self.send(request("GET", "/cluster_info"))).body.replace(b'","port":', b":"):
                    return
            await asyncio.sleep(0.02)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)


@contextlib.asynccontextmanager
async def program(
    folder: Path, ctx: int = 1, gen: int = 1, pause_s: float = 0.0, closed: bool = False, drain_s: int = 20, **door: Any
) -> AsyncIterator[Program]:
    workers = [await StandIn(role, pause_s).start() for role in ["context"] * ctx + ["generation"] * gen]
    one = Program(folder, workers, ("--drain", str(drain_s), *(("--closed",) if closed else ())), **door)
    try:
        await one.until(503 if closed else 200, request("GET", "/health"))
        yield one
    finally:
        for child in psutil.Process(one.process.pid).children() if one.process.poll() is None else ():
            child.kill()
        one.process.kill()
        one.process.wait()
        for worker in workers:
            await worker.stop()


def test_told_to_stop_it_finishes_what_it_has_and_takes_nothing_new(play: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        async with program(tmp_path, pause_s=0.03) as one:
            streams = [asyncio.ensure_future(one.complete(40, stream=True)) for _ in range(5)]
            while sum(w.sent for w in one.workers) < 10:
                await asyncio.sleep(0.01)
            one.process.terminate()
            for answer in await asyncio.gather(*streams):
                assert answer.done and answer.text == expected("hello", 40)
            assert await one.ended() == -signal.SIGTERM
            with pytest.raises(OSError):
                await one.complete()

    play(scene)


def test_what_is_not_finished_in_time_is_told_so_and_never_cut(play: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        async with program(tmp_path, pause_s=0.1, drain_s=1) as one:
            asked = [one.complete(400, stream=stream, prompt=prompt) for stream in (True, False) for prompt in ("hello", ["a", "b"])]
            running = [asyncio.ensure_future(each) for each in (*asked, one.complete(8, stream=True))]
            while len(one.workers[1].seen) < 7:
                await asyncio.sleep(0.01)
            one.process.terminate()
            *late, in_time = await asyncio.gather(*running)
            assert in_time.done and in_time.text == expected("hello", 8)
            assert [(answer.status, answer.whole) for answer in late] == [(200, True), (200, True), (503, True), (503, True)]
            assert late[0].done and late[1].done and late[2].headers["retry-after"] == late[3].headers["retry-after"] == "1"
            for error in (*(answer.events[-1]["error"] for answer in late[:2]), *(answer.json["error"] for answer in late[2:])):
                assert error["type"] == "server_error" and "has to stop" in error["message"]
            assert await one.ended() == -signal.SIGTERM

    play(scene)


def test_a_changed_file_is_taken_over_and_costs_no_stream(play: Any, tmp_path: Path) -> None:
    access = tmp_path / "access.log"

    async def scene() -> None:
        async with program(tmp_path, 1, 2, pause_s=0.03, access_log=str(access)) as one:
            ctx, old, new = one.workers
            one.write([ctx, old])
            one.process.send_signal(signal.SIGHUP)
            await until_said(one, "the configuration was read again", 1)
            streams = [asyncio.ensure_future(one.complete(60, stream=True)) for _ in range(4)]
            while old.sent < 10:
                await asyncio.sleep(0.01)
            before, seen = len(new.seen), len(old.seen)
            one.write([ctx, new], max_body_bytes=100)
            one.process.send_signal(signal.SIGHUP)
            await until_said(one, "the configuration was read again", 2)
            assert (await one.complete()).status == 200 and (len(new.seen), len(old.seen)) == (before + 1, seen)
            assert (await one.complete(user="x" * 200)).status == 413
            for answer in await asyncio.gather(*streams):
                assert answer.done and answer.text == expected("hello", 60)
            one.write([ctx, new], max_quene=3)
            one.process.send_signal(signal.SIGHUP)
            await until_said(one, "did you mean max_queue", 1)
            assert (await one.complete()).status == 200
            while sum(file.path == str(access) for file in psutil.Process(one.process.pid).open_files()) > 1:
                await asyncio.sleep(0.05)  # a file that was read anew opens its log anew, also for who has moved the old one away

    play(scene)


def test_an_access_log_that_nobody_takes_holds_nobody_up(play: Any, tmp_path: Path) -> None:
    """As on a file system that stalls, or behind a pipe whose reader does: here one that holds a page of lines and is never read."""
    log = tmp_path / "access.log"
    os.mkfifo(log)
    never = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(never, fcntl.F_SETPIPE_SZ, 4096)

    async def scene() -> None:
        async with program(tmp_path, access_log=str(log)) as one:
            until_s = asyncio.get_running_loop().time() + 3 * access.FLUSH_S  # so often is written in this time
            while asyncio.get_running_loop().time() < until_s:
                assert (await one.complete()).status == 200
            one.process.terminate()
            await one.ended()

    try:
        play(scene)
    finally:
        os.close(never)


async def until_said(one: Program, words: str, times: int) -> None:
    while one.log.read_text().count(words) < times:
        assert one.process.poll() is None
        await asyncio.sleep(0.02)


def test_several_processes_share_a_port_and_what_they_are_told(play: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        async with program(tmp_path, 1, 2, processes=2, closed=True) as one:
            parent = psutil.Process(one.process.pid)
            first = {child.pid for child in parent.children()}
            assert len(first) == 2
            await behind_the_closed_door(one)
            assert (await one.send(request("POST", "/admin/open", {}, ADMIN))).status == 200
            await until_all_answer(one, request("GET", "/health"))
            for _ in range(20):
                assert (await one.complete()).status == 200
            drained = request("POST", "/admin/drain", {"worker": one.workers[1].url}, ADMIN)
            assert (await one.send(drained)).status == 200
            await until_all_say(one, "draining")
            seen = len(one.workers[1].seen)
            for _ in range(20):
                assert (await one.complete()).status == 200
            assert len(one.workers[1].seen) == seen
            late = await StandIn("generation", 0.0).start()
            one.write([*one.workers, late])
            os.kill(min(first), signal.SIGKILL)
            while len({c.pid for c in parent.children() if c.status() != psutil.STATUS_ZOMBIE} - {min(first)}) < 2:
                await asyncio.sleep(0.02)
            await one.until_listed(late)  # who comes later knows what the file says by then
            await late.stop()
            one.process.send_signal(signal.SIGHUP)
            for _ in range(20):
                with contextlib.suppress(OSError):  # connections that the killed process had not accepted yet
                    await one.complete()
            await until_all_answer(one, request("GET", "/health"))  # who came later finds the door open
            children = parent.children()
            one.process.terminate()
            await one.ended()
            assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    play(scene)


async def behind_the_closed_door(one: Program) -> None:
    """Nobody gets in but the admin, who has a pair tried."""
    for _ in range(20):
        refused = await one.complete()
        assert refused.status == 503 and b"the deployment is starting" in refused.body
        assert (await one.send(request("GET", "/v1/models"))).status == (await one.send(request("GET", "/health"))).status == 503
    assert (await one.send(request("POST", "/admin/open", {}))).status == 401
    pair = {"context": one.workers[0].url, "generation": one.workers[1].url}
    tried = await one.send(request("POST", "/admin/probe", pair, ADMIN))
    assert tried.status == 200 and json.loads(tried.body)["ok"]
    assert one.workers[2].seen == []


async def until_all_answer(one: Program, raw: bytes) -> None:
    """Many times in a row: each process is met by some of them."""
    in_row = 0
    while in_row < 40:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            in_row = in_row + 1 if (await one.send(raw)).status == 200 else 0


async def until_all_say(one: Program, state: str) -> None:
    """Many times in a row: each process is met by some of them."""
    in_row = 0
    while in_row < 20:
        rows = (await one.send(request("GET", "/admin/workers", None, ADMIN))).json
        in_row = in_row + 1 if any(row["state"] == state for row in rows) else 0


def test_secrets_are_nowhere_to_be_seen_and_keys_change_while_it_runs(play: Any, tmp_path: Path) -> None:
    keys, access = tmp_path / "keys", tmp_path / "access.log"
    keys.write_text("file-secret\n")
    door = {"api_keys_file": str(keys), "api_keys_env": "SOME_KEYS", "access_log": str(access)}

    async def scene() -> None:
        async with program(tmp_path, **door) as one:
            said = [str(psutil.Process(one.process.pid).cmdline())]
            good = [{"authorization": f"Bearer {key}"} for key in ("file-secret", "env-secret")]
            for headers in good:
                assert (await one.complete(headers=headers)).status == 200
            for worker in one.workers:
                worker.mode = "500"
            wrong = [{"authorization": "Bearer wrong-secret"}, {"authorization": "wrong-secret"}]
            said += [str((await one.complete(headers=headers)).body) for headers in (*good, *wrong)]
            pages = ("/metrics", "/cluster_info", "/version", "/nothing", "/admin/workers?token=adm-secret")
            said += [str((await one.send(request("GET", path))).body) for path in pages]
            assert (await one.send(request("POST", "/admin/x", {}, ADMIN))).status == 404
            for worker in one.workers:
                worker.mode = "ok"
            keys.write_text("other-secret\n")
            new = request("POST", "/v1/completions", {"prompt": "x"}, {"authorization": "Bearer other-secret"})
            await one.until(200, new)
            assert (await one.complete(headers=good[0])).status == 401 and (await one.complete(headers=good[1])).status == 200
            one.process.terminate()
            await one.ended()
            said += [one.log.read_text(), access.read_text()]
            assert not [text for text in said if "secret" in text.replace(str(tmp_path), "")]
            lines = [json.loads(line) for line in access.read_text().splitlines()]
            assert {line["status"] for line in lines} == {200, 500} and len({line["client"] for line in lines}) == 3
            needed = {"time", "id", "path", "status", "ctx", "gen", "retries", "queued_us", "prefill_us", "ttft_us", "total_us"}
            assert all(needed <= set(line) for line in lines)

    play(scene)
