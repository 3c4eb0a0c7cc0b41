"""Waiting for a worker: a bounded queue, fair between clients, left after a time limit.

It is empty as long as some worker may be given a request. When it is full, the newest request of the client with the most
waiting gives way, so that one busy client cannot keep the others out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Callable, Optional

from disagg_launch.router.exchange import refusal
from disagg_launch.router.workers import Worker

Choose = Callable[[], Optional[Worker]]
Undo = Callable[[Worker], None]


class _Place:
    """One waiting request; `choose` picks a worker for it, or None as long as none is free."""

    __slots__ = ("choose", "client", "turn")

    def __init__(self, client: str, choose: Choose, turn: asyncio.Future[Worker]) -> None:
        self.client = client
        self.choose = choose
        self.turn = turn


class Queue:
    """The requests that wait for a worker, of both roles. `limit` places, each for at most `timeout_s` seconds."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self._lines: dict[str, deque[_Place]] = {}  # by client, in the order in which their turn comes
        self.length = 0

    async def wait(self, client: str, choose: Choose, undo: Undo, why: str) -> Worker:
        """The worker that `choose` picked when this client's turn came. Refused with 429 (full) or 503 (waited too long).

        `undo` is called when a worker was picked at the very moment in which the waiting was given up.
        """
        if self._limit and self.length >= self._limit:
            self._make_room(client)
        loop = asyncio.get_running_loop()
        place = _Place(client, choose, loop.create_future())
        self._lines.setdefault(client, deque()).append(place)
        self.length += 1
        late = refusal(503, f"{why}: waited {self._timeout_s:g} s", retry_after_s=1)
        timer = loop.call_later(self._timeout_s, _fail, place.turn, late) if self._timeout_s else None
        try:
            return await place.turn
        except asyncio.CancelledError:
            if not place.turn.cancelled() and place.turn.exception() is None:
                undo(place.turn.result())
            raise
        finally:
            if timer:
                timer.cancel()
            self._leave(place)

    def advance(self) -> None:
        """Something was freed: give workers to those whose turn it is, one client after the other, as long as there are any."""
        stuck = 0
        while self._lines and stuck < len(self._lines):
            client, line = next(iter(self._lines.items()))
            self._lines[client] = self._lines.pop(client)  # to the end: the others' turn comes first
            place = next((p for p in line if not p.turn.done()), None)
            worker = place.choose() if place else None
            if place and worker:
                place.turn.set_result(worker)
                stuck = 0
            else:
                stuck += 1

    def _make_room(self, client: str) -> None:
        longest = max(self._lines, key=lambda name: len(self._lines[name]))
        full = refusal(429, f"{self.length} requests are waiting already", retry_after_s=1)
        if len(self._lines[longest]) <= len(self._lines.get(client, ())) + 1:
            raise full
        newest = self._lines[longest][-1]
        _fail(newest.turn, full)
        self._leave(newest)

    def _leave(self, place: _Place) -> None:
        line = self._lines.get(place.client)
        if line and place in line:
            line.remove(place)
            self.length -= 1
            if not line:
                del self._lines[place.client]


def _fail(turn: asyncio.Future[Worker], error: Exception) -> None:
    if not turn.done():
        turn.set_exception(error)
