"""The HTTP client against a server that sends what it is told, cut where it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch.router.fleet import SWEEP_S
from disagg_launch.router.upstream import IDLE_LIMIT_S, Connection, Pool, UpstreamError

BODY = b'{"answer": "forty-two"}'
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (BODY[:8], len(BODY) - 8, BODY[8:])
EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + PLAIN
UNFRAMED = b"HTTP/1.1 200 OK\r\n\r\n" + BODY


class Wire:
    """A transport that only notes what happens to it."""

    def __init__(self) -> None:
        self.sent, self.closed, self.paused = b"", False, False

    def get_extra_info(self, name: str) -> str:
        return name

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.sent += b"".join(parts)

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def test_a_connection_to_itself_is_none() -> None:
    """To a port at which nobody listens, from that very port, TCP connects; the worker that comes back could not have its port then."""

    async def scene() -> None:
        pool = Pool("h:1")
        pool.loop = asyncio.get_running_loop()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            address = one.getsockname()
        _, connection = await pool.loop.create_connection(lambda: Connection(pool), *address, local_addr=address)
        await asyncio.sleep(0.05)  # until its end has been seen
        connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"", 1.0)
        with pytest.raises(UpstreamError, match="connect: nobody listens there"):
            await connection.until(1)
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
            one.bind(address)

    for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        loop = new_loop()
        loop.run_until_complete(scene())
        loop.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("url", ["a..b:1", "no.such.host.invalid:1", "127.0.0.1:1"])
def test_whoever_cannot_be_reached_is_so_by_name(url: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    loop = new_loop()
    with pytest.raises(UpstreamError, match="connect: "):
        loop.run_until_complete(Pool(url)._connect())
    loop.close()


def test_a_connection_that_comes_as_its_caller_leaves_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        pool, wire = Pool("h:1"), Wire()
        asking = asyncio.ensure_future(pool._connect())

        async def made(new: Callable[[], Connection], *_: Any) -> tuple[Wire, Connection]:
            asking.cancel()
            connection = new()
            connection.connection_made(wire)
            return wire, connection

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", made)
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert wire.closed

    asyncio.run(scene())


def test_idle_connections_are_dropped_before_a_server_would() -> None:
    """By the sweeper, and by whoever would use one that the sweeper has not come to yet."""

    async def scene() -> None:
        ended: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served = 0
            with contextlib.suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    served += 1
                    writer.write(PLAIN)
            ended.append(served)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        pool = Pool(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for times in (2, 1, 1):  # the last two find one that is too old
            for _ in range(times):
                assert await pool.call(b"GET", b"/", b"", b"", 20) == (200, BODY)
            now = asyncio.get_running_loop().time()
            pool.sweep(now + IDLE_LIMIT_S - 1)
            assert pool.open == 1
            pool._idle[0].idle_since = now - IDLE_LIMIT_S
        pool.sweep(now + 1)
        assert pool.open == 0
        while sorted(ended) != [1, 1, 2]:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(scene())
    assert IDLE_LIMIT_S + SWEEP_S < uvicorn.Config("").timeout_keep_alive == 5  # which trtllm-serve has too


async def feed(pieces: list[bytes], end: Any = "open") -> tuple[int, bytes, Connection]:
    pool = Pool("h:1")
    pool.loop = asyncio.get_running_loop()
    connection = Connection(pool)
    connection.connection_made(Wire())
    connection.ask(b"x", b"", 0)
    asking = asyncio.ensure_future(connection.whole())
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
        if connection.closed:
            break
    if end != "open":
        connection.connection_lost(end)
    return connection.status, await asyncio.wait_for(asking, 5), connection


def run(scene: Callable[[], Any]) -> Any:
    return asyncio.run(scene())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([PLAIN, CHUNKED, EARLY]), st.lists(st.integers(1, 120), max_size=8))
def test_answers_are_the_same_however_they_are_cut(answer: bytes, cuts: list[int]) -> None:
    places = [0, *sorted({c for c in cuts if c < len(answer)}), len(answer)]
    status, body, connection = run(lambda: feed([answer[a:b] for a, b in zip(places, places[1:])]))
    assert (status, body, connection.reusable) == (200, BODY, True)


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, EARLY])
@pytest.mark.parametrize("end", [None, ConnectionResetError()])
def test_every_cut_short_answer_is_an_error(answer: bytes, end: Any) -> None:
    for at in range(len(answer)):
        with pytest.raises(UpstreamError):
            run(lambda at=at: feed([answer[:at]], end))


def test_an_answer_without_length_ends_with_its_connection() -> None:
    status, body, connection = run(lambda: feed([UNFRAMED], None))
    assert (status, body, connection.reusable) == (200, BODY, False)
    with pytest.raises(UpstreamError):
        run(lambda: feed([UNFRAMED], ConnectionResetError()))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=80))
def test_garbage_is_an_error_and_never_a_hang(garbage: bytes) -> None:
    with pytest.raises(UpstreamError):
        run(lambda: feed([garbage], ConnectionResetError()))


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN + PLAIN,
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
)
def test_answers_that_could_be_read_in_two_ways_end_the_connection(answer: bytes) -> None:
    async def scene() -> bool:
        try:
            return (await feed([answer]))[2].reusable
        except UpstreamError:
            return False

    assert run(scene) is False
