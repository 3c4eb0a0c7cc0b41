"""HTTP/1.1 to the workers: a connection, and a pool of them per worker. This is where a router's time goes, so it is ours and small.

Parsing is httptools'. A body is handed on in the pieces in which it came, and nothing here looks into it. Headers of answers are not even
collected: only the status and the framing count. Deadlines are swept by one timer for all connections (`Pool.sweep`), so that a
request costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Callable, Optional

import httptools

MAX_HEADERS = 64 * 1024  # bytes of response headers
IDLE_LIMIT_S = 3.5  # below uvicorn's and trtllm-serve's keep-alive of 5 s, so that a reused connection is never one they just closed

_HEAD, _END = 1, 2


class UpstreamError(Exception):
    """The worker could not be reached, left, was too slow, or spoke nonsense. `cause` is a word for metrics.

    `untouched` says that not one byte of an answer came on a connection that had been used before: the worker most likely closed
    it while the request was on its way, so one more try is safe.
    """

    def __init__(self, cause: str, detail: str = "", untouched: bool = False) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.untouched = untouched


class Connection(asyncio.Protocol):
    """One keep-alive connection. Call `ask`, then await `until`, then `pour` or `whole`, then `Pool.put`.

    Nothing of it may be left in a cycle, or it and all that its request has collected stay until the garbage collector's next tour:
    the parser goes with the connection, and what went wrong is kept as words, because an exception that was raised knows its frames.
    """

    __slots__ = (
        "_broken", "_done", "_feed", "_parser", "_pieces", "_raw", "_transport", "_waiter", "_want",
        "deadline", "idle_since", "on_body", "pool", "reusable", "status", "used",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.used = 0
        self.idle_since = 0.0
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._pieces: list[bytes] = []
        self._feed: Optional[Callable[[bytes], None]] = None
        self.on_body = self._pieces.append  # httptools' call for a piece of body: of all calls the most frequent one
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiter: Optional[asyncio.Future[None]] = None
        self._broken: Optional[tuple[str, str, bool]] = None  # why nothing more can be asked here, as UpstreamError is told
        self._reset()
        self._done = True  # until something is asked

    def _reset(self) -> None:
        self.status = 0
        self.deadline = 0.0
        self.reusable = False
        self._raw = b""
        self._pieces.clear()
        self._want = 0
        self._done = False

    # what a caller does

    def ask(self, head: bytes, body: bytes, deadline: float) -> None:
        """Send a whole request. The answer's headers must be here at `deadline` (monotonic seconds)."""
        self._reset()
        self.used += 1
        self.deadline = deadline
        if self._broken is None:  # it may have ended since it was made; whoever waits is told
            self._transport.writelines((head, body) if body else (head,))

    async def pour(self, feed: Callable[[bytes], None]) -> None:
        """Call `feed` with each piece of the body as it comes, until its end. UpstreamError if it is cut short."""
        here = self.take()
        if here:
            feed(here)
        self._feed = feed
        try:
            await self.until(_END)
        finally:
            self._feed = None
            self.hold(False)

    def hold(self, still: bool) -> None:
        """Take nothing from the worker for the time being, or go on."""
        if self._transport.is_closing():
            return
        if still:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    async def whole(self) -> bytes:
        """The whole body. UpstreamError if it is cut short."""
        await self.until(_END)
        return self.take()

    def abort(self, cause: str = "aborted") -> None:
        """Drop the connection; whoever waits gets UpstreamError(cause)."""
        self._fail(cause)

    @property
    def closed(self) -> bool:
        """Whether nothing more can be asked here."""
        return self._broken is not None

    # inside

    def take(self) -> bytes:
        """What is here of the body and was not taken before."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    def _framed(self) -> bool:
        """Whether the answer says where it ends; one that does not ends with its connection."""
        raw = self._raw
        while raw[9:10] == b"1":  # 100 Continue and the like come before the answer
            raw = raw.partition(b"\r\n\r\n")[2]
        head = raw.partition(b"\r\n\r\n")[0].lower()
        return b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head

    def until(self, want: int) -> asyncio.Future[None]:
        """What is done when there are headers (1) or the end (2); it raises UpstreamError if they will never come."""
        self._waiter = waiter = self.pool.loop.create_future()
        self._want = want
        if self._done or (want == _HEAD and self.status) or self._broken:
            self._wake()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if self._broken and not self._done and not (self._want == _HEAD and self.status):  # after what came before it has been read
            waiter.set_exception(UpstreamError(*self._broken))
        else:
            waiter.set_result(None)

    def _fail(self, cause: str, detail: str = "", untouched: bool = False) -> None:
        if self._broken is None:
            self._broken = cause, detail, untouched
        self.reusable = False
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            # Nobody listens at that port of this machine, and it was the one that this end was given: TCP connects it to itself then.
            # Ended by a reset, because otherwise the worker that comes back could not have its port for a minute.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._fail("connect", "nobody listens there")

    def data_received(self, data: bytes) -> None:
        self.pool.heard = True
        if not self.status:
            self._raw = self._raw + data if self._raw else data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as wrong:
            self._fail("garbage", str(wrong))
            return
        if self._feed is not None and self._pieces:
            self._feed(self.take())  # all of one read together: under load there are many small pieces in it
        elif not self.status and len(self._raw) > MAX_HEADERS:
            self._fail("garbage", "the headers do not end")

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if self.status and not self._done and exc is None and self._broken is None and not self._framed():
            self._done = True  # a body without length ends with its connection
        untouched = self.used > 1 and not self._raw
        self._fail("reset" if exc else "closed", str(exc or "the worker closed the connection"), untouched)
        self._parser = None
        self.pool.lost(self)

    # httptools

    def on_message_begin(self) -> None:
        if self._done:
            raise ValueError("an answer to nothing")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, 103 Early Hints: not the answer
            return
        self.status = status
        if self._want == _HEAD:
            self._wake()

    def on_message_complete(self) -> None:
        if not self.status:
            return
        self._done = True
        self._raw = b""
        self.reusable = self._parser.should_keep_alive() and self._broken is None
        self._wake()


class Pool:
    """The connections to one worker at `host:port`: the youngest idle one first, as many as there are requests.

    `heard` becomes True with every byte from the worker: it is alive, whatever its health page says. `streamed` counts pieces of streams.
    """

    def __init__(self, url: str, connect_timeout_s: float = 2.0) -> None:
        host, _, port = url.rpartition(":")
        self.url = url
        self.heard = False
        self.streamed = 0
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self._address = (host.strip("[]"), int(port))
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._host = url.encode()

    async def ask(self, method: bytes, path: bytes, body: bytes, extra: bytes, timeout_s: float, until: int = _HEAD) -> Connection:
        """A connection on which this request was sent and whose answer's headers are here; give it back with `put`.

        `extra`: further header lines, each ending in CR LF. UpstreamError after at most one repetition (see there).
        """
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
        begun = head % (method, path, self._host, len(body), extra)
        connection = self._reuse() or await self._connect()
        while True:
            self._busy.add(connection)
            try:
                connection.ask(begun, body, self.loop.time() + timeout_s)
                await connection.until(until)
                return connection
            except UpstreamError as error:
                self._busy.discard(connection)
                connection.abort()
                if not error.untouched:
                    raise
            except BaseException:
                self._busy.discard(connection)
                connection.abort()
                raise
            connection = await self._connect()  # its first request: no second repetition

    async def call(self, method: bytes, path: bytes, body: bytes, extra: bytes, timeout_s: float) -> tuple[int, bytes]:
        """(status, body) of a whole answer, all within `timeout_s`. UpstreamError as with `ask`."""
        connection = await self.ask(method, path, body, extra, timeout_s, _END)
        try:
            return connection.status, connection.take()
        finally:
            self.put(connection)

    def put(self, connection: Connection) -> None:
        """Take a connection back: kept if its answer is complete, otherwise dropped, which tells the worker to stop."""
        if connection not in self._busy:
            return
        self._busy.discard(connection)
        if connection.reusable and not connection.closed:
            connection.idle_since = self.loop.time()
            self._idle.append(connection)
        else:
            connection.abort()

    def abort(self, cause: str) -> None:
        """Drop every connection, at once: the worker is known to be gone."""
        for connection in [*self._busy, *self._idle]:
            connection.abort(cause)

    def sweep(self, now: float) -> None:
        """Drop what is past its deadline and what has been idle for too long. Call it several times a second."""
        for connection in [c for c in self._busy if 0 < c.deadline < now]:
            connection.abort("timeout")
        while self._idle and self._idle[0].idle_since < now - IDLE_LIMIT_S:
            self._idle.pop(0).abort("idle")

    def lost(self, connection: Connection) -> None:
        """Called by a connection that has ended by itself."""
        if connection in self._idle:
            self._idle.remove(connection)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._busy) + len(self._idle)

    def _reuse(self) -> Optional[Connection]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and connection.idle_since > self.loop.time() - IDLE_LIMIT_S:
                return connection
            connection.abort("idle")
        return None

    async def _connect(self) -> Connection:
        self.loop = asyncio.get_running_loop()
        making = asyncio.ensure_future(self.loop.create_connection(lambda: Connection(self), *self._address))
        try:  # not wait_for, which before Python 3.12 may swallow a cancellation
            await asyncio.wait((making,), timeout=self._connect_timeout_s)
        except BaseException:
            if not making.cancel() and making.exception() is None:
                making.result()[1].abort()  # it came as its caller left
            raise
        if making.cancel():
            raise UpstreamError("connect", f"no connection within {self._connect_timeout_s:g} s")
        try:
            return making.result()[1]
        except (OSError, UnicodeError) as wrong:  # UnicodeError: no name of a host can be like this
            raise UpstreamError("connect", str(wrong)) from None
