"""One request of a client, and the answer to it as it goes over the wire."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Optional, Protocol

from disagg_launch.router.exchange import Refused, refusal

STOPPING = refusal(503, "the server has to stop now, before this answer is finished: ask again, elsewhere or later", retry_after_s=1)
JSON = b"application/json"
STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-request-id: "


class Writable(Protocol):
    """What a reply needs of its connection. `writable` is done when the client takes more; None if it does now."""

    transport: asyncio.Transport
    writable: Optional[asyncio.Future[None]]

    async def write(self, data: bytes) -> None:
        """Send; returns when the client can take more."""


class Request:
    """One request, read to its end. Names of `headers` are in lower case; `error` is why it is refused, if it is.

    `peer` is the client's address, `port` the one of ours that it came to.
    """

    __slots__ = ("body", "error", "headers", "http_1_0", "keep_alive", "method", "path", "peer", "port")

    def __init__(self, peer: str, port: int) -> None:
        self.peer = peer
        self.port = port
        self.method = b""
        self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: Any = b""
        self.keep_alive = True
        self.http_1_0 = False
        self.error: Optional[Refused] = None


class Reply:
    """The answer to one request (a `Sink`). `status` is 0 until something was sent; `left` says that the client did not wait for it."""

    __slots__ = ("_chunked", "_connection", "_request", "_said", "left", "request_id", "started", "status")

    def __init__(self, connection: Writable, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._chunked = not request.http_1_0
        self.request_id = b""
        self._said = False  # all of it: the client has only to take it
        self.started = False
        self.left = False
        self.status = 0

    async def whole(self, status: int, content_type: bytes, body: bytes, retry_after_s: int = 0, headers: bytes = b"") -> None:
        """One complete answer, in one write. `headers` are more lines of its head, each with its end."""
        self.started = self._said = True
        self.status = status
        more = b"%bretry-after: %d\r\n" % (headers, retry_after_s) if retry_after_s else headers
        if status == 401:
            more += b"www-authenticate: Bearer\r\n"
        if not self._request.keep_alive:
            more += b"connection: close\r\n"
        head = b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n"
        text = head % (STATUS[status], content_type, len(body), self.request_id, more)
        await self._connection.write(text if self._request.method == b"HEAD" else text + body)

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        """The next events of a stream. What comes back is done when the client can take more; None if it can now."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        connection = self._connection
        connection.transport.write(data if self.started else self._begun() + data)
        return connection.writable

    def _begun(self) -> bytes:
        """The head of a stream, which has begun with this."""
        self.started = True
        self.status = 200
        if not self._chunked:
            self._request.keep_alive = False
        framing = b"\r\ntransfer-encoding: chunked\r\n" if self._chunked else b"\r\n"
        close = b"" if self._request.keep_alive else b"connection: close\r\n"
        return b"".join((_STREAM, self.request_id, framing, close, b"\r\n"))

    async def end(self) -> None:
        """The end of a stream."""
        self._said = True
        if self._chunked:
            await self._connection.write(b"0\r\n\r\n")

    async def refuse(self, no: Refused) -> None:
        """An error: as an answer, or inside a stream as its last event."""
        if not self.started:
            await self.whole(no.status, JSON, no.body, no.retry_after_s)
            return
        self.piece(b"data: " + no.body + b"\n\ndata: [DONE]\n\n")
        await self.end()

    async def cut_short(self) -> None:
        """The server can wait no longer: the client hears so and never takes a part for the whole."""
        self._request.keep_alive = False
        if not self._said:
            await self.refuse(STOPPING)
