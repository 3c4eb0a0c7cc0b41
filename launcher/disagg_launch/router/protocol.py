"""uvicorn's HTTP protocol with two limits that it lacks: the size of a request's head, and the time its head may take to arrive."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Optional

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Limited(HttpToolsProtocol):
    """One client connection. The limits are the class's, set once before serving; 0 is none."""

    max_head_bytes = 0
    head_timeout_s = 0.0
    connections_open: ClassVar[set[Limited]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """uvicorn's, and the wait for a request begins."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_since: Optional[float] = self.loop.time()
        self.connections_open.add(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """uvicorn's."""
        self.connections_open.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """uvicorn's, unless the head has grown too long."""
        if self._head_since is None:
            super().data_received(data)
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None and 0 < self.max_head_bytes < self._head_bytes and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """uvicorn's, and a head begins."""
        self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """uvicorn's, and the head has ended."""
        self._head_since = None
        self._head_bytes = 0
        super().on_headers_complete()

    def _refuse(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
        self.transport.close()

    @classmethod
    async def sweep(cls, every_s: float = 1.0) -> None:
        """Close, for ever, connections whose head takes too long."""
        while True:
            await asyncio.sleep(every_s)
            now = asyncio.get_running_loop().time()
            for one in list(cls.connections_open):
                if cls.head_timeout_s and one._head_since is not None and now - one._head_since > cls.head_timeout_s:
                    one._refuse(b"408 Request Timeout")


def limited(max_head_bytes: int, head_timeout_s: float) -> type[Any]:
    """The protocol class with these limits."""
    return type("Limited", (Limited,), {"max_head_bytes": max_head_bytes, "head_timeout_s": head_timeout_s, "connections_open": set()})
