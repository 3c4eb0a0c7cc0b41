"""The client's side in ASGI terms: reading bodies, writing answers, noticing that the client has left."""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, Mapping, Optional

from disagg_launch.router.exchange import Refused, refusal

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"


class Reply:
    """The answer to one request (a `Sink`). `status` is 0 until something was sent."""

    __slots__ = ("_id", "_send", "started", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._id = (b"x-request-id", request_id)
        self.started = False
        self.status = 0

    async def whole(self, status: int, content_type: bytes, body: bytes, retry_after_s: int = 0) -> None:
        """One complete answer."""
        self.started = True
        self.status = status
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), self._id]
        if retry_after_s:
            headers.append((b"retry-after", b"%d" % retry_after_s))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def piece(self, data: bytes) -> None:
        """The next events of a stream; returns when the client can take more."""
        if not self.started:
            self.started = True
            self.status = 200
            headers = [(b"content-type", _EVENTS), (b"cache-control", b"no-cache"), self._id]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, no: Refused) -> None:
        """An error: as an answer, or inside a stream as its last event."""
        if not self.started:
            await self.whole(no.status, JSON, no.body, no.retry_after_s)
            return
        await self.piece(b"data: " + no.body + b"\n\ndata: [DONE]\n\n")
        await self.end()


class Watch:
    """Cancels a request's task when its client leaves, also during prefill; `left` says that it was for that."""

    __slots__ = ("_receive", "_request", "_task", "left")

    def __init__(self, receive: Receive, request: Optional[asyncio.Task[Any]]) -> None:
        self._receive = receive
        self._request = request
        self._task: Optional[asyncio.Task[None]] = None
        self.left = False

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._request is not None:
            self._request.cancel()

    def stop(self) -> None:
        """The request has ended."""
        if self._task is not None:
            self._task.cancel()


async def read_body(headers: Headers, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body. Refused with 413 when it is longer than `limit` (0: any), with 408 when it takes too long."""
    if limit and int(headers.get(b"content-length", b"0")) > limit:
        raise _too_long(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    try:
        return await asyncio.wait_for(_rest(body, receive, limit), timeout_s or None)
    except asyncio.TimeoutError:
        raise refusal(408, "the body did not arrive in time") from None


async def _rest(body: bytes, receive: Receive, limit: int) -> bytes:
    parts, size = [body], len(body)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refusal(400, "the client left before the end of the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if limit and size > limit:
            raise _too_long(limit)
        if not message.get("more_body"):
            return b"".join(parts)


def _too_long(limit: int) -> Refused:
    return refusal(413, f"the body is longer than {limit} bytes (front_door.max_body_bytes)")
