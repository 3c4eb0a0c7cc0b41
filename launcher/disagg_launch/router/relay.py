"""A stream on its way from a worker to the client: whole events are passed on in the very call that received them.

No task is woken for a piece, which would cost as much as all else that the router does with it, and nothing looks into the events.
"""

from __future__ import annotations

import asyncio
from typing import Any, Optional

from disagg_launch.router import events
from disagg_launch.router.exchange import Exchange, Kept, Sink
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.upstream import Connection, UpstreamError

KEEP_BYTES = 8 << 20  # a longer stream is not kept to its end, and cannot be gone on with
_ERROR, _EVENT = b'data: {"error"', b"data: {"


class Relay:
    """One stream of one worker, to be `run` once. `stall_s` is the worker's longest pause, 0 without limit."""

    __slots__ = (
        "_before", "_clock", "_connection", "_exchange", "_kept", "_last", "_metrics", "_observe", "_over", "_rest", "_sink",
        "_stall_s", "_wrong",
    )  # fmt: skip

    def __init__(self, connection: Connection, exchange: Exchange, sink: Sink, stall_s: float, metrics: Metrics) -> None:
        self._connection = connection
        self._exchange = exchange
        self._kept: Kept = exchange.kept or Kept()
        self._sink = sink
        self._stall_s = stall_s
        self._metrics = metrics
        self._observe = metrics.inter_token.observe
        self._clock = asyncio.get_running_loop().time
        self._before = 0.0
        self._rest = self._last = b""
        self._over = False
        self._wrong: Optional[Exception] = None

    async def run(self) -> None:
        """Until the worker's answer ends. UpstreamError if that comes before the last event; what the sink raised if it could not go on."""
        try:
            await self._connection.pour(self._feed)
        except UpstreamError:
            if self._wrong is None:
                raise
        finally:
            self._over = True
        if self._wrong is not None:
            raise self._why()
        if self._rest or not events.is_last(self._last):
            raise UpstreamError("truncated")

    def _why(self) -> Exception:
        """What went wrong, kept here no longer: once raised it knows its frames and they know this relay, with all it has kept."""
        wrong, self._wrong = self._wrong, None
        assert wrong is not None
        return wrong

    def _feed(self, piece: bytes) -> None:
        if self._over:
            return
        data = self._rest + piece if self._rest else piece
        if data.endswith(b"\n\n"):
            self._rest = b""
        else:
            data, self._rest = events.split(data)
        now = self._clock()
        self._connection.deadline = now + self._stall_s if self._stall_s else 0.0
        if data:
            try:
                self._pass_on(data, now)
            except Exception as wrong:
                self._wrong, self._over = wrong, True
                self._connection.abort("not passed on")

    def _pass_on(self, data: bytes, now: float) -> None:
        if _ERROR in data:
            raise UpstreamError("error event")
        if self._before:
            self._observe(now - self._before)
        elif not self._exchange.first:
            self._exchange.first = now
        self._before = now
        self._last = data
        self._metrics.tokens += data.count(_EVENT)
        self._connection.pool.streamed += 1
        kept = self._kept
        if kept.size < KEEP_BYTES:
            kept.pieces.append(data)
            kept.size += len(data)
        full = self._sink.piece(data)
        if full is not None:
            self._wait_for(full)

    def _wait_for(self, full: asyncio.Future[None]) -> None:
        """The client takes nothing more: neither is anything taken from the worker then, and its silence is not its fault."""
        self._connection.hold(True)
        self._connection.deadline = 0.0
        full.add_done_callback(self._go_on)

    def _go_on(self, full: Any) -> None:
        if not self._over:
            self._connection.deadline = self._clock() + self._stall_s if self._stall_s else 0.0
            self._connection.hold(False)
