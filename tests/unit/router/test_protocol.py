"""HTTP from clients: the same requests however they are cut, and never a hang or a crash from what is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from disagg_launch.router.config import FrontDoor
from disagg_launch.router.protocol import Connection, bound
from disagg_launch.router.reply import Reply, Request

POST = b"POST /v1/completions?a=b HTTP/1.1\r\nHost: x\r\nX-Thing: 1\r\ncontent-length: 11\r\n\r\nhello world"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nhost: y\r\n\r\n"
HEAD = b"HEAD /version HTTP/1.1\r\n\r\n"
REQUESTS = {POST: (b"POST", b"hello world"), CHUNKED: (b"POST", b"hello world"), GET: (b"GET", b""), HEAD: (b"HEAD", b"")}


class Wire:
    """A transport that only notes what happens to it."""

    def __init__(self) -> None:
        self.sent, self.closed = b"", False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 8000)


class Server:
    """What of uvicorn's state a connection uses."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        self.tasks: set[Any] = set()
        self.total_requests = 0


class Scene:
    """One connection; in `company` other connections' requests are being answered, and then none begins in the call that read it."""

    def __init__(self, company: bool = False, **limits: Any) -> None:
        self.seen: list[Request] = []

        async def handle(request: Request, reply: Reply) -> None:
            self.seen.append(request)
            reply.request_id = b"r"
            await asyncio.sleep(0)
            await reply.whole(200, b"text/plain", bytes(request.body))

        self.server, self.wire = Server(), Wire()
        self.others = {object()} if company else set()
        self.server.tasks |= self.others
        self.connection: Connection = bound(handle, FrontDoor(**limits))(None, self.server, None)
        self.connection.connection_made(self.wire)

    async def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.wire.closed:
                self.connection.data_received(piece)
            await asyncio.sleep(0)
        while self.server.tasks != self.others:
            await asyncio.sleep(0)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 10))  # type: ignore[arg-type]


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted({c for c in cuts if c < len(raw)}), len(raw)]
    return [raw[a:b] for a, b in zip(places, places[1:])]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=12), st.lists(st.integers(1, 700), max_size=14), st.booleans())
@example([POST] * 12, [], False)
@example([POST] * 12, [], True)
def test_requests_are_the_same_however_they_are_cut_and_sent_ahead(asked: list[bytes], cuts: list[int], company: bool) -> None:
    async def scene() -> None:
        one = Scene(company)
        await one.feed(*cut(b"".join(asked), cuts))
        assert [(r.method, bytes(r.body)) for r in one.seen] == [REQUESTS[raw] for raw in asked]
        assert one.wire.sent.count(b"HTTP/1.1 200 OK\r\n") == len(asked) and not one.wire.closed
        assert one.server.total_requests == len(asked)

    play(scene)


def test_a_client_that_leaves_before_its_request_has_begun_leaves_nothing_behind() -> None:
    async def scene() -> None:
        one = Scene(company=True)
        one.connection.data_received(POST)
        one.connection.connection_lost(None)
        await one.feed()
        assert not one.seen and not one.wire.sent

    play(scene)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_that_is_sent_breaks_the_connection_s_state(data: Any) -> None:
    """Good requests with bytes changed, left out or put in: each is answered or refused, and then the connection is done or usable."""
    raw = bytearray(b"".join(data.draw(st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(1, 4))):
        at, kind = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.sampled_from("cdi"))
        byte = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(b"\r\n:; \x00\xff0"))))
        raw[at : at + (kind != "i")] = b"" if kind == "d" and len(raw) > 1 else bytes([byte])
    cuts, company = data.draw(st.lists(st.integers(1, 400), max_size=5)), data.draw(st.booleans())

    async def scene() -> None:
        one = Scene(company, max_header_bytes=4096, max_body_bytes=4096)
        await one.feed(*cut(bytes(raw), cuts))
        heads = one.wire.sent.split(b"HTTP/1.1 ")[1:]
        assert all(head[:3].isdigit() for head in heads)
        assert len(heads) >= len(one.seen) or one.wire.closed  # whoever goes on with nonsense gets no answer, also to what came before
        assert one.server.tasks == one.others
        if not one.wire.closed:
            one.connection.sweep(one.connection.loop.time() + 3600)
        assert one.wire.closed  # nothing half-read is waited for for ever

    play(scene)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(1, 200), max_size=4))
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [])
@example(b"CONNECT x:1 HTTP/1.1\r\n\r\nabc", [])
@example(b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x00\x01", [])
def test_garbage_ends_and_never_raises(garbage: bytes, cuts: list[int]) -> None:
    async def scene() -> None:
        one = Scene()
        await one.feed(*cut(garbage, cuts))
        if not one.wire.closed:
            one.connection.sweep(one.connection.loop.time() + 3600)
        assert one.wire.closed
        one.connection.connection_lost(None)
        assert not one.server.connections and not one.server.tasks

    play(scene)


def test_ids_of_clients_cannot_bring_in_lines() -> None:
    """A header's value never holds a line end, so that what is sent on cannot either."""

    async def scene() -> None:
        for evil in (b"a\r\n b", b"a\rb", b"a\nb", b"a\x00b", b"a\r\n\tx-evil: 1"):
            one = Scene()
            await one.feed(b"GET / HTTP/1.1\r\nx-request-id: " + evil + b"\r\n\r\n")
            assert not any(b"\r" in v or b"\n" in v or b"\x00" in v for r in one.seen for v in r.headers.values())

    play(scene)
