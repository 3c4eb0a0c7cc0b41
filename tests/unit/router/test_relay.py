"""Streams on their way through: the same to the last byte however they are cut, and held back when nobody takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_upstream import Wire

from disagg_launch.router.events import split
from disagg_launch.router.exchange import Exchange, Kept
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.policies import Ask
from disagg_launch.router.relay import Relay
from disagg_launch.router.resume import Joined
from disagg_launch.router.upstream import Connection, Pool, UpstreamError

EVENTS = [b'data: {"choices":[{"text":" t%d"}]}\n\n' % i for i in range(6)] + [b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunks of these sizes, the last one for the rest."""
    out, at = b"", 0
    for size in [*sizes, len(body)]:
        piece = body[at : at + size]
        at += len(piece)
        out += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    return out + b"0\r\n\r\n"


class Client:
    """A sink that takes everything, or (`full`) nothing more until that is done; `wrong` is raised instead."""

    started = False

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.full: Optional[asyncio.Future[None]] = None
        self.wrong: Optional[Exception] = None

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        raise AssertionError("a stream is not whole")

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        if self.wrong:
            raise self.wrong
        self.got.append(data)
        return self.full

    async def end(self) -> None:
        raise AssertionError("the relay does not end the client's stream")


class Scene:
    """A relay between a wire that is fed by hand and a client."""

    def __init__(self, stall_s: float = 60.0) -> None:
        loop = asyncio.get_running_loop()
        pool = Pool("h:1")
        pool.loop = loop
        self.connection, self.wire, self.client = Connection(pool), Wire(), Client()
        self.connection.connection_made(self.wire)
        self.connection.ask(b"x", b"", 0)
        ask = Ask(0)
        self.exchange = Exchange(id="", path=b"", chat=False, stream=True, body={}, ask=ask, extra=b"", client="", began=0.0)
        self.exchange.kept = Kept()
        self.running = asyncio.ensure_future(Relay(self.connection, self.exchange, self.client, stall_s, Metrics()).run())

    async def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.connection.closed:
                self.connection.data_received(piece)
            await asyncio.sleep(0)

    async def end(self) -> None:
        await asyncio.wait_for(self.running, 5)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 90), max_size=6), st.lists(st.integers(1, 400), max_size=8))
def test_whole_events_arrive_in_order_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    raw = HEAD + chunked(b"".join(EVENTS), sizes)
    places = [0, *sorted({c for c in cuts if c < len(raw)}), len(raw)]

    async def scene() -> None:
        one = Scene()
        await one.feed(*(raw[a:b] for a, b in zip(places, places[1:])))
        await one.end()
        assert b"".join(one.client.got) == b"".join(EVENTS) == b"".join(one.exchange.kept.pieces)  # type: ignore[union-attr]
        assert all(piece.endswith(b"\n\n") for piece in one.client.got) and one.connection.reusable

    play(scene)


@given(st.lists(st.sampled_from([b"data: x", b": y", b"\n\n", b"\r\n\r\n", b"\n", b"\r\n"])).map(b"".join))
def test_events_are_cut_only_behind_an_empty_line_and_behind_the_last_one(data: bytes) -> None:
    whole, rest = split(data)
    assert whole + rest == data and (not whole or whole.endswith((b"\n\n", b"\r\n\r\n")))
    assert b"\n\n" not in rest and b"\r\n\r\n" not in rest


def test_events_may_end_with_cr_lf_and_come_byte_by_byte() -> None:
    raw = HEAD + chunked(b"".join(EVENTS).replace(b"\n", b"\r\n"), [])

    async def scene() -> None:
        one = Scene()
        await one.feed(*(raw[at : at + 1] for at in range(len(raw))))
        await one.end()
        assert b"".join(one.client.got).replace(b"\r\n", b"\n") == b"".join(EVENTS)

    play(scene)


def test_the_second_part_of_a_stream_says_nothing_where_its_worker_says_nothing() -> None:
    """An empty piece would be the chunk that ends the client's answer."""
    client = Client()
    joined = Joined(client, {"id": "a"}, 3, opened=True)
    for data in (b": ping\n\n", b'data: {"id":"b"}\r\n\r\n', b"data: [DONE]\r\n\r\n"):
        joined.piece(data)
    assert client.got == [b'data: {"id":"a"}\n\n', b"data: [DONE]\n\n"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_stream_cut_at_any_byte_is_an_error_after_its_whole_events(data: Any) -> None:
    raw = HEAD + chunked(b"".join(EVENTS), [50, 50])
    at = data.draw(st.integers(len(HEAD), len(raw) - 1))

    async def scene() -> None:
        one = Scene()
        await one.feed(raw[:at])
        one.connection.connection_lost(ConnectionResetError())
        with pytest.raises(UpstreamError):
            await one.end()
        got = b"".join(one.client.got)
        assert b"".join(EVENTS).startswith(got) and (not got or got.endswith(b"\n\n"))

    play(scene)


@pytest.mark.parametrize("together", [False, True])
def test_an_error_event_is_kept_from_the_client_with_all_that_follows(together: bool) -> None:
    async def scene() -> None:
        one = Scene()
        error = b'data: {"error": {"message": "boom"}}\n\n'
        events = [EVENTS[0], error, EVENTS[-1]]
        await one.feed(HEAD)
        await one.feed(*([chunked(b"".join(events), [])] if together else [b"%x\r\n%b\r\n" % (len(e), e) for e in events]))
        with pytest.raises(UpstreamError, match="error event"):
            await one.end()
        assert one.client.got == ([] if together else [EVENTS[0]]) and one.wire.closed

    play(scene)


@pytest.mark.parametrize("body", [b"", b"".join(EVENTS[:-1]), b"".join(EVENTS)[:-1], b'data: {"a": 1}\n'])
def test_an_answer_that_ends_too_early_is_an_error_although_http_is_content(body: bytes) -> None:
    async def scene() -> None:
        one = Scene()
        await one.feed(HEAD + chunked(body, []))
        with pytest.raises(UpstreamError, match="truncated"):
            await one.end()

    play(scene)


def test_a_client_that_takes_nothing_more_holds_the_worker_still_and_blames_it_for_nothing() -> None:
    async def scene() -> None:
        one = Scene(stall_s=0.001)
        await one.feed(HEAD, b"%x\r\n%b\r\n" % (len(EVENTS[0]), EVENTS[0]))
        assert one.connection.deadline > 0 and not one.wire.paused
        one.client.full = asyncio.get_running_loop().create_future()
        await one.feed(b"%x\r\n%b\r\n" % (len(EVENTS[1]), EVENTS[1]))
        assert one.wire.paused and one.connection.deadline == 0
        one.client.full.set_result(None)
        one.client.full = None
        await asyncio.sleep(0)
        assert not one.wire.paused and one.connection.deadline > 0
        await one.feed(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await one.end()

    play(scene)


def test_a_connection_goes_back_unpaused_though_its_last_client_was_slow() -> None:
    async def scene() -> None:
        one = Scene()
        full = one.client.full = asyncio.get_running_loop().create_future()
        await one.feed(HEAD + chunked(b"".join(EVENTS), []))
        await one.end()
        assert one.connection.reusable and not one.wire.paused
        one.connection.ask(b"next", b"", 123.0)
        full.set_result(None)
        await asyncio.sleep(0)
        assert one.connection.deadline == 123.0  # the next request's, untouched by the last one's client

    play(scene)


def test_what_the_sink_cannot_take_comes_out_as_it_is() -> None:
    async def scene() -> None:
        one = Scene()
        one.client.wrong = KeyError("index")
        await one.feed(HEAD + chunked(b"".join(EVENTS), []))
        with pytest.raises(KeyError):
            await one.end()
        assert one.wire.closed

    play(scene)
