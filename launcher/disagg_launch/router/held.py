"""Both hops at once: nothing of the generation worker's answer is shown before the context worker has said yes.

Otherwise a client could be told 200 by one of them for a request that the other refuses.
"""

from __future__ import annotations

import asyncio
from typing import Optional

from disagg_launch.router.exchange import Sink


class Held:
    """A sink in front of another one, shut until `open`. Little gathers before it: the worker is made to wait."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._shut: Optional[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []

    @property
    def started(self) -> bool:
        """Whether the client has been sent something."""
        return self._sink.started

    def open(self) -> None:
        """Let everything through from now on."""
        if self._pieces:
            self._sink.piece(b"".join(self._pieces))
        if self._shut is not None and not self._shut.done():
            self._shut.set_result(None)
        self._shut = None

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        """One complete answer, when it may be shown."""
        if self._shut is not None:
            await self._shut
        await self._sink.whole(status, content_type, body)

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        """The next events; what comes back is done when the sink is open."""
        if self._shut is None:
            return self._sink.piece(data)
        self._pieces.append(data)
        return self._shut

    async def end(self) -> None:
        """The end of a stream."""
        if self._shut is not None:
            await self._shut
        await self._sink.end()
