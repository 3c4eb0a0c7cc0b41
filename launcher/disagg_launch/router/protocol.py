"""HTTP/1.1 from the clients: a protocol of our own under uvicorn's server.

uvicorn gives sockets, TLS, signals and draining. Its ASGI layer is left out: it costs a request 50 us, a second write for each answer and
a task to learn that the client has left. Parsing is httptools'. Limits on head, body and time are kept here, where they are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Callable, ClassVar, Coroutine, Optional

import httptools

from disagg_launch.router.begun import begin
from disagg_launch.router.config import FrontDoor
from disagg_launch.router.exchange import Refused, refusal
from disagg_launch.router.reply import JSON, STATUS, Reply, Request

KEEP_ALIVE_S = 10.0  # as upstream's router
LAST_CALL_S = 0.3
MOST_PIPELINED = 8
Handle = Callable[[Request, Reply], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """One client connection. `handle` and `door` are the class's, see `bound`; the rest of the interface is what uvicorn's server needs."""

    handle: ClassVar[Any]
    door: ClassVar[FrontDoor]

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Optional[asyncio.AbstractEventLoop] = None) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.writable: Optional[asyncio.Future[None]] = None  # set while the client takes nothing more
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._server = server_state
        self._parser: Any = httptools.HttpRequestParser(self)
        self._peer, self._port = "", -1
        self._request: Optional[Request] = None  # being read
        self._waiting: deque[Request] = deque()
        self._reply: Optional[Reply] = None  # being answered
        self._task: Optional[asyncio.Task[None]] = None
        self._size = 0  # bytes of what is being read
        self._in_head = True
        self._since = 0.0  # of waiting for a request, reading it, or the client's taking nothing more
        self._stopping = False

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._since = self.loop.time()
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if isinstance(peer, tuple) and isinstance(own, tuple):
            self._peer, self._port = peer[0], own[1]
        self._server.connections.add(self)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._server.connections.discard(self)
        self._parser = None  # it knows this connection: a cycle would stay until the garbage collector's next tour
        self._waiting.clear()
        if self._task is not None:
            if self._reply is not None:
                self._reply.left = True
            self._task.cancel()
            self._server.tasks.discard(self._task)  # one that has not begun yet never comes to `_answered`
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # nothing here is upgraded to: the request is answered as it is
        except httptools.HttpParserError:
            self._refuse(400, "this is not HTTP/1.1")
            return
        if self._in_head and 0 < self.door.max_header_bytes < self._size:
            self._refuse(431, "the head of the request is too long (front_door.max_header_bytes)")

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        self._since = self.loop.time()

    def resume_writing(self) -> None:
        waiting, self.writable = self.writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        self._request = Request(self._peer, self._port)
        self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        request = self._request
        assert request is not None
        request.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        assert request is not None
        request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        self._in_head = False
        self._size = 0
        headers = request.headers
        request.method = self._parser.get_method()
        request.http_1_0 = self._parser.get_http_version() == "1.0"
        request.keep_alive = self._parser.should_keep_alive() and not self._stopping
        limit = self.door.max_body_bytes
        if limit and int(headers.get(b"content-length", b"0")) > limit:
            request.error = self._too_long()
        elif b"expect" in headers and headers[b"expect"].lower() == b"100-continue" and self._task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.error:  # answered at once: nobody reads megabytes only to say no
            request.keep_alive = False
            self._dispatch(request)

    def on_body(self, body: bytes) -> None:
        request = self._request
        if request is None or request.error:
            return
        self._size += len(body)
        if 0 < self.door.max_body_bytes < self._size:
            request.error = self._too_long()
            request.keep_alive = False
            request.body = b""
            self._dispatch(request)
            return
        if not request.body:
            request.body = body
            return
        if isinstance(request.body, bytes):
            request.body = bytearray(request.body)
        request.body += body

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        self._in_head = True
        self._size = 0
        if request is not None and not request.error:
            self._dispatch(request)

    # answering

    def _dispatch(self, request: Request) -> None:
        if self._task is None:
            self._start(request)
            return
        self._waiting.append(request)
        if len(self._waiting) > MOST_PIPELINED:
            self.transport.pause_reading()

    def _start(self, request: Request) -> None:
        self._reply = reply = Reply(self, request)
        coming = self._run(request, reply)
        # alone, its latency counts; among others throughput does, and to read them all before the first begins costs each 10 us less
        task = self.loop.create_task(coming) if self._server.tasks else begin(coming, self.loop)
        if task is not None:
            self._task = task
            self._server.tasks.add(task)

    async def _run(self, request: Request, reply: Reply) -> None:
        try:
            if request.error:
                await reply.refuse(request.error)
            else:
                await self.handle(request, reply)
        except asyncio.CancelledError:
            if not reply.left:
                await reply.cut_short()
        except Exception:
            log.exception("%s", request.path.decode("latin-1"))
            if reply.started:
                self.transport.abort()
            else:
                await reply.refuse(refusal(500, "internal error of the router"))
        finally:
            self._answered(request)

    def _answered(self, request: Request) -> None:
        task, self._task, self._reply = self._task, None, None
        self._server.total_requests += 1
        self._since = self.loop.time()
        if not request.keep_alive or self._stopping:
            self.transport.close()
        if task is not None:  # it had to wait, and others may have come meanwhile
            self._server.tasks.discard(task)
            while self._waiting and self._task is None and not self.transport.is_closing():
                self.transport.resume_reading()
                self._start(self._waiting.popleft())

    async def write(self, data: bytes) -> None:
        """Send; returns when the client can take more."""
        self.transport.write(data)
        if self.writable is not None:
            await self.writable

    def _refuse(self, status: int, message: str) -> None:
        """Answer what never became a request, and close."""
        if self._task is None and not self.transport.is_closing():
            body = refusal(status, message).body
            head = b"%bcontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (STATUS[status], JSON, len(body)) + body)
        self.transport.close()

    def _too_long(self) -> Refused:
        return refusal(413, f"the body is longer than {self.door.max_body_bytes} bytes (front_door.max_body_bytes)")

    # what uvicorn's server and the sweeper do

    def shutdown(self) -> None:
        """The last request: close after the running answer, or after one that may be on its way already."""
        self._stopping = True
        if self._task is None:
            self.loop.call_later(LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._task is None:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if it has been idle, its request on its way, or its answer not being taken, for too long."""
        if self._task is not None:
            # a client that takes nothing holds a place at a worker, and KV
            if self.writable is not None and 0 < self.door.stall_timeout_s < now - self._since:
                self.transport.abort()
            return
        begun = self._request is not None or self._size > 0
        limit = self.door.header_timeout_s if begun else KEEP_ALIVE_S
        if limit and now - self._since > limit:
            if begun:
                self._refuse(408, "the request did not arrive in time (front_door.header_timeout_s)")
            else:
                self.transport.close()


def bound(handle: Handle, door: FrontDoor) -> type[Connection]:
    """The protocol class whose requests `handle` answers, within the door's limits."""
    return type("Connection", (Connection,), {"handle": staticmethod(handle), "door": door})
