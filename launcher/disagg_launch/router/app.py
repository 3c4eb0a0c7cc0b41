"""The ASGI application: paths, bodies, errors. A bare callable, because a framework costs more than the routing does."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from typing import Any, Awaitable, Callable, Mapping, Optional

from disagg_launch import __version__
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import policies
from disagg_launch.router.exchange import Exchange, Refused, error_body, refusal
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import EVENTS, Flow
from disagg_launch.router.policies import Ask
from disagg_launch.router.splice import Ids, dumps, loads

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

JSON_TYPE, TEXT_TYPE = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
WATCH_AFTER_S = 0.02  # a request that is answered sooner is not watched for its client leaving
BYTES_PER_TOKEN = 4  # an estimate for text, which the router never tokenises
# headers that go on to the workers; everything else, keys above all, stays here
PASSED_ON = (b"x-request-id", b"traceparent", b"tracestate", b"x-session-id", b"x-correlation-id")
SESSION_HEADERS = (b"x-session-id", b"x-correlation-id", b"x-session-affinity", b"x-multi-turn-session-id")

log = logging.getLogger(__name__)


class Reply:
    """The client's side of an exchange (a `Sink`): ASGI messages."""

    __slots__ = ("_head", "_send", "started", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._head = (b"x-request-id", request_id)
        self.started = False
        self.status = 0

    async def whole(self, status: int, content_type: bytes, body: bytes, extra: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """One complete answer."""
        self.started = True
        self.status = status
        length = (b"content-length", b"%d" % len(body))
        headers = [(b"content-type", content_type), length, self._head, *extra]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def piece(self, data: bytes) -> None:
        """The next events of a stream."""
        if not self.started:
            self.started = True
            self.status = 200
            headers = [(b"content-type", EVENTS + b"; charset=utf-8"), (b"cache-control", b"no-cache"), self._head]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The end of a stream."""
        await self._send({"type": "http.response.body", "body": b""})


class App:
    """The router as an ASGI callable. Made inside the running event loop."""

    def __init__(self, fleet: Fleet, flow: Flow) -> None:
        self._fleet = fleet
        self._flow = flow
        self._config = fleet.config
        self._door = fleet.config.front_door
        self._metrics = flow.metrics
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._prefix = os.urandom(4).hex()
        self._needs_blocks = any(role.policy in policies.READ_BLOCKS for role in self._config.roles.values())
        self._pages: dict[str, Callable[[Reply], Awaitable[None]]] = {
            "/health": self._health,
            "/cluster_info": self._cluster_info,
            "/version": self._version,
            "/v1/models": self._models,
            "/metrics": self._prometheus,
            "/prometheus/metrics": self._prometheus,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path == "/v1/completions" or path == "/v1/chat/completions":
            await self._answer(scope, receive, send)
            return
        number = next(self._numbers)
        reply = Reply(send, b"%b-%x" % (self._prefix.encode(), number))
        page = self._pages.get(path)
        try:
            if page is None:
                raise refusal(404, f"there is no {path} here")
            if scope["method"] not in ("GET", "HEAD"):
                raise refusal(405, f"{path} takes GET")
            await page(reply)
        except Refused as no:
            await _refuse(reply, no)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A completion, from the request's headers to the last byte of its answer."""
        headers: Headers = dict(scope["headers"])
        number = next(self._numbers)
        request_id = headers.get(b"x-request-id") or b"%b-%x" % (self._prefix.encode(), number)
        reply = Reply(send, request_id)
        self._metrics.count("total_requests")
        try:
            if scope["method"] != "POST":
                raise refusal(405, f"{scope['path']} takes POST")
            exchange = self._exchange(scope, headers, await self._body(headers, receive), number, request_id)
        except Refused as no:
            self._metrics.count("validation_exceptions")
            await _refuse(reply, no)
            return
        self._metrics.count("stream_requests" if exchange.stream else "nonstream_requests")
        watch = _Watch(receive)
        timer = self._loop.call_later(WATCH_AFTER_S, watch.start, asyncio.current_task())
        try:
            await self._serve(exchange, reply)
        except asyncio.CancelledError:
            if not watch.left:
                raise
            self._metrics.count("client_disconnects")
        finally:
            timer.cancel()
            watch.stop()

    async def _serve(self, exchange: Exchange, reply: Reply) -> None:
        try:
            await self._flow.serve(exchange, reply)
            self._metrics.count("total_responses")
        except Refused as no:
            self._metrics.count("http_exceptions")
            await self._say_no(exchange, reply, no)
        except Exception:
            log.exception("request %s", exchange.id)
            self._metrics.count("internal_errors")
            await self._say_no(exchange, reply, refusal(500, "internal error of the router"))
        if exchange.first:
            self._metrics.ttft.observe(exchange.first - exchange.began)
            self._metrics.hand_over.observe(exchange.first - exchange.prefilled)

    async def _say_no(self, exchange: Exchange, reply: Reply, no: Refused) -> None:
        """An error: as an answer, or, inside a stream, as its last event."""
        if not reply.started:
            await _refuse(reply, no)
            return
        self._metrics.count("broken_streams")
        await reply.piece(b"data: " + no.body + b"\n\ndata: [DONE]\n\n")
        await reply.end()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._door.max_body_bytes
        if limit and int(headers.get(b"content-length", b"0")) > limit:
            raise refusal(413, f"the body is longer than {limit} bytes")
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        try:
            return await asyncio.wait_for(_rest(body, receive, limit), self._door.header_timeout_s or None)
        except asyncio.TimeoutError:
            raise refusal(408, "the body did not arrive in time") from None

    def _exchange(self, scope: Scope, headers: Headers, body: bytes, number: int, request_id: bytes) -> Exchange:
        chat = scope["path"] == "/v1/chat/completions"
        try:
            asked = loads(body, "prompt_token_ids" if chat else "prompt")
        except ValueError as wrong:
            raise refusal(400, f"the body is not a JSON object: {wrong}") from None
        stream = asked.get("stream") or False
        if not isinstance(stream, bool):
            raise refusal(400, "stream must be true or false")
        session = next((headers[name].decode("latin-1").strip() for name in SESSION_HEADERS if name in headers), "")
        tokens, blocks = self._size(asked, chat)
        return Exchange(
            id=request_id.decode("latin-1"),
            path=scope["raw_path"],
            chat=chat,
            stream=stream,
            body=asked,
            ask=Ask(number, tokens, session, blocks),
            extra=_extra(headers, request_id),
            client=headers.get(b"authorization", b"").decode("latin-1"),
            began=self._loop.time(),
        )

    def _size(self, asked: dict[str, Any], chat: bool) -> tuple[int, tuple[int, ...]]:
        """(tokens of the prompt, hashes of its blocks): exact for token ids, estimated for text. Refused if there is no prompt."""
        prompt = asked.get("prompt_token_ids") if chat else asked.get("prompt")
        if chat and prompt is None:
            prompt = asked.get("messages")
            if not isinstance(prompt, list):
                raise refusal(400, "messages must be a list")
        if prompt is None:
            raise refusal(400, "a prompt is needed")
        if isinstance(prompt, str) and not self._needs_blocks:
            return len(prompt) // BYTES_PER_TOKEN + 1, ()
        raw = prompt.raw if isinstance(prompt, Ids) else dumps(prompt)
        tokens = len(prompt) if isinstance(prompt, Ids) else len(raw) // BYTES_PER_TOKEN + 1
        return tokens, policies.blocks_of(raw, 32 * BYTES_PER_TOKEN) if self._needs_blocks else ()

    # pages

    async def _health(self, reply: Reply) -> None:
        await reply.whole(200 if self._fleet.ready else 503, JSON_TYPE, b"")

    async def _cluster_info(self, reply: Reply) -> None:
        await reply.whole(200, JSON_TYPE, dumps(self._fleet.info()))

    async def _version(self, reply: Reply) -> None:
        await reply.whole(200, JSON_TYPE, dumps({"version": __version__}))

    async def _models(self, reply: Reply) -> None:
        await reply.whole(200, JSON_TYPE, await self._fleet.models())

    async def _prometheus(self, reply: Reply) -> None:
        workers = [*self._flow.table.of(CONTEXT), *self._flow.table.of(GENERATION)]
        await reply.whole(200, TEXT_TYPE, self._metrics.text(workers).encode())


class _Watch:
    """Cancels the request's task when its client leaves, also during prefill; `left` says that it was for that."""

    __slots__ = ("_receive", "_task", "left")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: Optional[asyncio.Task[None]] = None
        self.left = False

    def start(self, request: asyncio.Task[Any] | None) -> None:
        """Begin to watch."""
        self._task = asyncio.ensure_future(self._run(request))

    async def _run(self, request: asyncio.Task[Any] | None) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if request is not None:
            request.cancel()

    def stop(self) -> None:
        """The request has ended."""
        if self._task is not None:
            self._task.cancel()


async def _rest(body: bytes, receive: Receive, limit: int) -> bytes:
    parts, size = [body], len(body)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refusal(400, "the client left before the end of the body")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if limit and size > limit:
            raise refusal(413, f"the body is longer than {limit} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


def _extra(headers: Headers, request_id: bytes) -> bytes:
    lines = b"x-request-id: %b\r\n" % request_id
    for name in PASSED_ON[1:]:
        if name in headers:
            lines += b"%b: %b\r\n" % (name, headers[name])
    return lines


async def _refuse(reply: Reply, no: Refused) -> None:
    extra = ((b"retry-after", b"%d" % no.retry_after_s),) if no.retry_after_s else ()
    await reply.whole(no.status, JSON_TYPE, no.body, extra)


__all__ = ["App", "error_body"]
