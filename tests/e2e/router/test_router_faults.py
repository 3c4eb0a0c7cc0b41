"""Workers that fail in every way: each request ends with the right full text or an explicit error."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest
from scene import Cluster, cluster, read_answer, request
from standin import expected

from disagg_launch.router import protocol, upstream
from disagg_launch.router.dispatch import Budget
from disagg_launch.router.exchange import Exchange, Kept, Refused, WorkerFailed
from disagg_launch.router.relay import Relay
from disagg_launch.router.resume import Joined
from disagg_launch.router.upstream import UpstreamError
from disagg_launch.router.workers import State


async def metric(c: Cluster, name: str) -> int:
    page = (await c.get("/metrics")).body.decode()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in page.splitlines() if line.startswith(name))


@pytest.mark.parametrize("mode", ["500", "503", "garbage", "die"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_context_worker_costs_nothing(play: Any, mode: str, stream: bool) -> None:
    async def scene() -> None:
        async with cluster(2, 1) as c:
            c.ctx[0].mode = mode
            for i in range(6):
                answer = await c.complete(f"hello {i}", 4, stream=stream)
                assert answer.status == 200
                assert (answer.text if stream else answer.json["choices"][0]["text"]) == expected(f"hello {i}", 4)

    play(scene)


@pytest.mark.parametrize("mode", ["500", "503", "garbage"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_worker_that_fails_before_its_first_token_costs_nothing(play: Any, mode: str, stream: bool) -> None:
    async def scene() -> None:
        async with cluster(1, 2) as c:
            c.gen[0].mode = mode
            for i in range(4):
                answer = await c.complete(f"hello {i}", 4, stream=stream)
                assert (answer.text if stream else answer.json["choices"][0]["text"]) == expected(f"hello {i}", 4)
            assert len(c.ctx[0].seen) > 4  # sent again whole, from the prefill on

    play(scene)


@pytest.mark.parametrize("policy", ["round_robin", "load_balancing", "kv_cache_aware", "conversation"])
def test_a_context_worker_whose_kv_cannot_be_fetched_is_not_asked_again(play: Any, policy: str) -> None:
    async def scene() -> None:
        async with cluster(2, 1, context_servers={"router": {"type": policy}}) as c:
            prompt = "long enough for a block of a cache, " * 8
            for i in range(4):  # each policy would send the second try where the first one went: same number, same prompt, same session
                for one in c.ctx:
                    one.mode = "lost" if one is c.ctx[i // 2] else "ok"
                answer = await c.post("/v1/completions", {"prompt": prompt, "max_tokens": 4, "stream": i > 1}, {"x-session-id": "s"})
                assert (answer.text if i > 1 else answer.json["choices"][0]["text"]) == expected(prompt, 4)
            assert await metric(c, "retries_total{") > 0 and await metric(c, "ctx_error_requests") == 0

    play(scene)


@pytest.mark.parametrize("mode", ["die", "cut", "stall"])
@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_goes_on_elsewhere_with_no_token_twice_and_none_missing(play: Any, mode: str, chat: bool) -> None:
    async def scene() -> None:
        async with cluster(1, 2, front_door={"stall_timeout_s": 0.3}) as c:
            c.gen[0].mode = mode
            prompt: Any = [{"role": "user", "content": "hi"}] if chat else "hello"
            body = {"model": "m", "max_tokens": 12, "stream": True, "stream_options": {"include_usage": True}}
            body |= {"messages": prompt} if chat else {"prompt": prompt}
            for _ in range(2):  # one of the two goes to the worker that dies
                answer = await c.post("/v1/chat/completions" if chat else "/v1/completions", body)
                assert answer.done and answer.text == expected(prompt, 12)
                assert len({e["id"] for e in answer.events}) == 1
                roles = [x["delta"].get("role") for e in answer.events for x in e["choices"] if "delta" in x]
                assert sum(r is not None for r in roles) == (1 if chat else 0)
                usage = answer.events[-1]["usage"]
                assert usage["completion_tokens"] == 12 and usage["total_tokens"] == usage["prompt_tokens"] + 12
                assert usage["prompt_tokens"] == (len(json.dumps(prompt)) if chat else 5)
            assert await metric(c, "resumed_streams_total") == 1 and await metric(c, "broken_streams_total") == 0

    play(scene)


def test_a_stream_survives_several_deaths(play: Any) -> None:
    async def scene() -> None:
        async with cluster(1, 4) as c:
            for i, worker in enumerate(c.gen[:3]):
                worker.mode, worker.die_after = "die", i + 1
            for i in range(4):
                answer = await c.complete(f"hello {i}", 12, stream=True)
                assert answer.done and answer.text == expected(f"hello {i}", 12)

    play(scene)


def test_a_death_at_the_last_token_is_ended_properly(play: Any) -> None:
    async def scene() -> None:
        async with cluster(1, 2) as c:
            for worker in c.gen:
                worker.mode, worker.die_after = "die", 4

            answer = await c.complete("hello", 4, stream=True)  # dies only where a fifth token would be: never
            assert answer.done and answer.text == expected("hello", 4)

    play(scene)


def test_without_ids_a_broken_stream_ends_in_an_error_event(play: Any) -> None:
    async def scene() -> None:
        async with cluster(1, 2, front_door={"resume": False}) as c:
            c.gen[0].mode = c.gen[1].mode = "die"
            answer = await c.complete("hello", 8, stream=True)
            assert answer.done and answer.events[-1]["error"]["type"] == "server_error"
            assert expected("hello", 8).startswith(answer.text) and await metric(c, "broken_streams_total") == 1

    play(scene)


def test_nobody_left_is_told(play: Any) -> None:
    async def scene() -> None:
        async with cluster(1, 1, front_door={"queue_timeout_s": 0.3}) as c:
            await c.gen[0].stop()
            answer = await c.complete("hello")
            assert answer.status in (502, 503) and answer.json["error"]["type"] == "server_error" and "retry-after" in answer.headers
            while (await c.get("/health")).status == 200:
                await asyncio.sleep(0.05)
            assert (await c.complete("hello")).status == 503
            await c.gen[0].start()
            while (await c.get("/health")).status != 200:
                await asyncio.sleep(0.05)
            assert (await c.complete("hello", 4)).json["choices"][0]["text"] == expected("hello", 4)

    play(scene)


def test_the_last_worker_is_never_shut_out(play: Any) -> None:
    async def scene() -> None:
        async with cluster(front_door={"health_interval_s": 5}) as c:
            c.ctx[0].mode = "500"
            for _ in range(12):
                assert (await c.complete("hello")).status == 500
            c.ctx[0].mode = "ok"
            assert (await c.complete("hello", 4)).status == 200

    play(scene)


def test_a_bad_worker_is_left_alone_while_others_are_good(play: Any) -> None:
    async def scene() -> None:
        async with cluster(2, 1, front_door={"health_interval_s": 5}) as c:
            c.ctx[0].mode = "500"
            for i in range(30):
                assert (await c.complete(f"hello {i}")).status == 200
            assert 3 <= len(c.ctx[0].seen) <= 6

    play(scene)


def test_clients_that_leave_are_not_failures(play: Any) -> None:
    async def scene() -> None:
        async with cluster(pause_s=0.02) as c:
            for _ in range(12):
                with pytest.raises(asyncio.TimeoutError):
                    await c.post("/v1/completions", {"prompt": "x", "max_tokens": 500, "stream": True}, timeout_s=0.1)
            c.gen[0].pause_s = 0
            assert (await c.complete("hello", 4)).status == 200
            assert await metric(c, 'worker_state{role="generation"') == 1 and await metric(c, "gen_error_requests_total") == 0

    play(scene)


def test_idle_connections_that_the_worker_closed_are_not_failures(play: Any) -> None:
    async def scene() -> None:
        async with cluster(front_door={"health_interval_s": 5}) as c:
            for _ in range(3):
                assert (await c.complete("hello")).status == 200
                for worker in (c.ctx[0], c.gen[0]):
                    for writer in list(worker._writers):
                        writer.transport.abort()
            assert await metric(c, "ctx_error_requests") == 0 and await metric(c, "retries_total{") == 0

    play(scene)


@pytest.mark.parametrize("role", ["context", "generation"])
def test_resets_at_every_byte_of_an_answer(play: Any, role: str) -> None:
    """A worker's answer cut after each of its bytes, in turn: the right text and never anything else."""

    async def scene() -> None:
        async with cluster(2, 2, front_door={"health_interval_s": 600}, **{f"{role}_servers": {"router": {"type": "load_balancing"}}}) as c:
            real = c.ctx[0] if role == "context" else c.gen[0]
            proxy = await Cutter(real.port).start()
            try:
                app = c.app.app._fleet
                app.remove(app.table.by_url[role, real.url])
                worker = app.add(role, proxy.url)
                while worker.state is not State.READY:
                    await asyncio.sleep(0.005)
                app.table.of(role)[0].active = 1  # so that each request comes to the cut one first
                c.app._now.dispatch.budget._left = Budget.MOST
                while not proxy.past_end:
                    proxy.cut, worker.failures_in_row = proxy.cut + 1, 0
                    answer = await c.complete("hello", 2, stream=True)
                    assert answer.done and answer.text == expected("hello", 2), (proxy.cut, answer.body)
                    assert proxy.cuts == proxy.cut
                assert proxy.cut > 400
            finally:
                await proxy.stop()

    play(scene)


class Cutter:
    """A TCP proxy that resets the connection after `cut` bytes of an answer to a POST."""

    def __init__(self, port: int) -> None:
        self._target, self.cut, self.cuts = port, 0, 0
        self.past_end = False  # whether an answer was shorter than that

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> Cutter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, out = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
                out.write(head + await reader.readexactly(size))
                left = self.cut if head.startswith(b"POST") else 0
                self.cuts += left > 0
                if not left:
                    writer.write(await inner.read(65536))
                    await writer.drain()
                while left > 0:
                    data = await asyncio.wait_for(inner.read(left), 1)
                    left -= len(data)
                    writer.write(data)
                    await writer.drain()
                    if not data:
                        break
                await asyncio.sleep(0.002)
                break
        except asyncio.TimeoutError:
            self.past_end = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
            out.transport.abort()


def test_waiting_is_bounded_and_told(play: Any) -> None:
    async def scene() -> None:
        limits = {"max_in_flight_per_worker": 1, "max_queue": 2, "queue_timeout_s": 0.4}
        async with cluster(pause_s=0.05, front_door=limits) as c:
            busy = asyncio.ensure_future(c.complete("busy", 20))
            await asyncio.sleep(0.1)
            waiting = [asyncio.ensure_future(c.complete(f"w{i}", 2)) for i in range(5)]
            answers = await asyncio.gather(*waiting)
            statuses = sorted(a.status for a in answers)
            assert statuses == [429, 429, 429, 503, 503] and all(a.headers["retry-after"] == "1" for a in answers)
            assert (await busy).status == 200
            assert (await c.complete("later", 2)).status == 200
            assert await metric(c, "worker_active_requests") == 0

    play(scene)


def test_a_slow_client_makes_the_worker_wait(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            writer, reader, connection = await unread_stream(c)
            sent = -1
            while sent != c.gen[0].sent:
                sent = c.gen[0].sent
                await asyncio.sleep(0.3)
            assert sent < 2000 and connection.transport.get_write_buffer_size() < 1 << 20
            answer = await asyncio.wait_for(read_answer(reader), 30)
            assert answer.done and answer.text == expected("x", 2000)
            writer.close()

    play(scene)


def test_a_client_that_takes_nothing_for_too_long_is_left(play: Any) -> None:
    async def scene() -> None:
        async with cluster(front_door={"stall_timeout_s": 0.5}) as c:
            writer, _, _ = await unread_stream(c)
            while not await metric(c, "client_disconnects_total"):
                await asyncio.sleep(0.05)
            assert await metric(c, "worker_active_requests") == 0 and await metric(c, "gen_error_requests_total") == 0
            writer.close()

    play(scene)


async def unread_stream(c: Cluster) -> Any:
    """(writer, reader, the router's connection) of a stream of 20 MB that nobody reads, once the router has noticed."""
    c.gen[0].pad = "x" * 10_000
    reader, writer = await asyncio.open_connection("127.0.0.1", c.port, limit=1024)
    writer.write(request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2000, "stream": True}))
    while True:
        await asyncio.sleep(0.01)
        for connection in c.app.connections():
            if connection.writable is not None:
                return writer, reader, connection


def things_left(c: Cluster) -> list[object]:
    """What the garbage collector knows of requests that have ended and of connections that nobody has any more."""
    used = [*c.app.connections(), *(one for w in c.app.app._fleet.table.by_url.values() for one in [*w.pool._idle, *w.pool._busy])]
    kinds = (Exchange, Kept, Relay, Joined, Refused, UpstreamError, WorkerFailed, protocol.Connection, upstream.Connection)
    return [one for one in gc.get_objects() if isinstance(one, kinds) and one not in used]


@pytest.mark.parametrize("schedule", ["context_first", "generation_first"])
def test_nothing_is_left_of_requests_however_they_ended(play: Any, schedule: str) -> None:
    """Exchanges, relays and connections are gone from memory when all have ended, broken or well: at once, not on a collector's tour."""

    async def scene() -> None:
        async with cluster(1, 3, pause_s=0.005, front_door={"stall_timeout_s": 0.5}, schedule_style=schedule) as c:
            gc.collect()
            gc.disable()
            before = things_left(c)  # of other tests in this process
            c.gen[0].mode, c.gen[1].mode = "die", "cut"
            body = {"prompt": "x", "max_tokens": 40, "stream": True}
            ends = [c.complete(f"p{i}", 12, stream=i % 3 > 0, n=1 + i % 2) for i in range(30)]
            leaves = [c.post("/v1/completions", body, timeout_s=0.05) for _ in range(10)]
            await asyncio.gather(*ends, *leaves, return_exceptions=True)
            while await metric(c, "requests_in_flight"):
                await asyncio.sleep(0.05)
            for worker in c.gen:  # and a stream that nothing happens to, so that the last one's connection holds another's nothing
                worker.mode = "ok"
            assert (await c.complete("x", 2)).status == 200
            left = [one for one in things_left(c) if not any(one is other for other in before)]
            for _ in range(100):  # connections end in the loop's next rounds
                if not left:
                    break
                await asyncio.sleep(0.05)
                left = [one for one in things_left(c) if not any(one is other for other in before)]
            ends = (protocol.Connection, upstream.Connection)
            assert all(isinstance(one, ends) for one in left), left[:3]
            assert len(left) < 3, left  # of a hundred; asyncio of Python 3.13 sometimes keeps one in a cycle of its own

    try:
        play(scene)
    finally:
        gc.enable()


def test_the_gateway_tells_who_is_gone_and_who_is_back(play: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")

    async def scene() -> None:
        async with cluster(1, 2, pause_s=0.02, front_door={"admin_token_file": str(token)}) as c:
            admin = {"authorization": "Bearer s3cret"}
            assert (await c.post("/admin/drain", {"worker": c.gen[0].url})).status == 401
            assert (await c.post("/admin/drain", {"worker": c.gen[0].url}, {"authorization": "Bearer no"})).status == 401
            assert (await c.post("/admin/drain", {"worker": "nobody:1"}, admin)).status == 404
            assert (await c.post("/admin/drain", {"worker": c.gen[0].url}, admin)).json[0]["state"] == "draining"
            for i in range(4):
                assert (await c.complete(f"p{i}", 1)).status == 200
            assert c.gen[0].seen == []
            assert (await c.post("/admin/undrain", {"worker": c.gen[0].url}, admin)).status == 200
            await asyncio.sleep(0.2)
            streams = [asyncio.ensure_future(c.complete(f"s{i}", 30, stream=True)) for i in range(6)]
            await asyncio.sleep(0.2)
            c.gen[1].mode = "hang"  # it still listens, but the gateway knows better
            assert (await c.post("/admin/gone", {"worker": c.gen[1].url}, admin)).status == 200
            for i, answer in enumerate(await asyncio.gather(*streams)):
                assert answer.done and answer.text == expected(f"s{i}", 30)
            assert await metric(c, "resumed_streams_total") == 3

    play(scene)
