"""The ASGI application: paths, keys, and completions from first header to last byte. Bare: a framework costs more than the routing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from typing import Any, Awaitable, Callable, Mapping

from disagg_launch import __version__
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import fanout, policies
from disagg_launch.router.access import AccessLog
from disagg_launch.router.admin import Admin
from disagg_launch.router.asgi import JSON, Application, Headers, Receive, Reply, Scope, Send, Watch, read_body
from disagg_launch.router.exchange import Exchange, Refused, refusal
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.keys import Keys
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.perf import Perf
from disagg_launch.router.policies import Ask
from disagg_launch.router.splice import Ids, dumps, loads

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_COMPLETING = frozenset({COMPLETIONS, CHAT})
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
WATCH_AFTER_S = 0.02  # a request that is answered sooner is not watched for its client leaving
BYTES_PER_TOKEN = 4  # an estimate for text, which the router never tokenises
CLIENT_LEFT = 499  # what the access log says of a client that did not wait
# headers that go on to the workers; everything else, keys above all, stays here
PASSED_ON = (b"traceparent", b"tracestate", b"x-session-id", b"x-correlation-id")
SESSION_HEADERS = (b"x-session-id", b"x-correlation-id", b"x-session-affinity", b"x-multi-turn-session-id")

log = logging.getLogger(__name__)


class App:
    """The router as an ASGI callable. Made inside the running event loop."""

    def __init__(self, fleet: Fleet, flow: Flow, metrics: Metrics, mounts: Mapping[str, Application]) -> None:
        config = fleet.config
        self._discovers, self._mounts = config.discovers, mounts
        self._fleet, self._flow, self._metrics = fleet, flow, metrics
        self._door = config.front_door
        self._keys = Keys(self._door.api_keys_file, self._door.api_keys_env)
        self._admin = Admin(fleet, self._door)
        self._perf = Perf(fleet.table, config.perf_metrics_max_requests)
        self.access = AccessLog(self._door.access_log)
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._prefix = os.urandom(4).hex().encode()
        options = [config.roles[role] for role in (CONTEXT, GENERATION) if config.roles[role].policy in policies.READ_BLOCKS]
        per_block = min((int(role.options.get("tokens_per_block", 32)) for role in options), default=0)
        self._block_bytes = per_block * BYTES_PER_TOKEN
        self._pages: dict[str, Callable[[Reply], Awaitable[None]]] = {
            "/health": self._health,
            "/cluster_info": self._cluster_info,
            "/version": self._version,
            "/v1/models": self._models,
            "/metrics": self._prometheus,
            "/prometheus/metrics": self._prometheus,
            "/perf_metrics": self._perf_metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path: str = scope["path"]
        if path in self._mounts:
            await self._mounts[path](scope, receive, send)
            return
        headers: Headers = dict(scope["headers"])
        number = next(self._numbers)
        request_id = headers.get(b"x-request-id") or b"%b-%x" % (self._prefix, number)
        reply = Reply(send, request_id)
        try:
            if path in _COMPLETING:
                await self._complete(scope, headers, receive, reply, number, request_id)
            elif path.startswith("/admin/"):
                body = await read_body(headers, receive, self._door.max_body_bytes, self._door.header_timeout_s)
                peer = (scope.get("client") or ("",))[0]
                answer = self._admin.answer(scope["method"], path[7:], peer, headers.get(b"authorization", b""), body)
                await reply.whole(200, JSON, answer)
            else:
                await self._page(scope, headers, reply)
        except Refused as no:
            await reply.refuse(no)

    async def _page(self, scope: Scope, headers: Headers, reply: Reply) -> None:
        page = self._pages.get(scope["path"])
        if page is None:
            raise refusal(404, f"{scope['path']} is not served here")
        if scope["method"] not in ("GET", "HEAD"):
            raise refusal(405, f"{scope['path']} takes GET")
        if page == self._models:
            self._client(scope, headers)
        await page(reply)

    async def _complete(self, scope: Scope, headers: Headers, receive: Receive, reply: Reply, number: int, request_id: bytes) -> None:
        """A completion. Refused until it has been understood; after that whatever goes wrong is told and counted here."""
        self._metrics.count("total_requests")
        try:
            client = self._client(scope, headers)
            if scope["method"] != "POST":
                raise refusal(405, f"{scope['path']} takes POST")
            body = await read_body(headers, receive, self._door.max_body_bytes, self._door.header_timeout_s)
            exchange = self._exchange(scope, headers, body, number, request_id, client)
            parts = fanout.spread(exchange)
        except Refused:
            self._metrics.count("validation_exceptions")
            raise
        self._metrics.count("stream_requests" if exchange.stream else "nonstream_requests")
        watch = Watch(receive, asyncio.current_task())
        timer = self._loop.call_later(WATCH_AFTER_S, watch.start)
        try:
            await self._serve(exchange, parts, reply)
        except asyncio.CancelledError:
            if not watch.left:
                raise
            reply.status = CLIENT_LEFT
            self._metrics.count("client_disconnects")
        finally:
            timer.cancel()
            watch.stop()
            self.access.add(exchange, reply.status)

    async def _serve(self, exchange: Exchange, parts: list[Exchange], reply: Reply) -> None:
        try:
            if self._discovers and not self._fleet.ready:
                raise refusal(503, f"the cluster is not ready: {self._fleet.lacking()}", retry_after_s=1)
            if len(parts) == 1:
                await self._flow.serve(parts[0], reply)
            else:
                await fanout.serve_all(self._flow.serve, parts, exchange.body.get("n") or 1, reply)
                fanout.sum_up(exchange, parts)
        except Refused as no:
            await self._tell(reply, no, "http_exceptions")
        except Exception:
            log.exception("request %s", exchange.id)
            await self._tell(reply, refusal(500, "internal error of the router"), "internal_errors")
        else:
            self._answered(exchange)

    async def _tell(self, reply: Reply, no: Refused, counter: str) -> None:
        self._metrics.count(counter)
        if reply.started:
            self._metrics.count("broken_streams")
        await reply.refuse(no)

    def _answered(self, exchange: Exchange) -> None:
        metrics = self._metrics
        metrics.count("total_responses")
        metrics.queue.observe(exchange.queued_s)
        metrics.ttft.observe(exchange.first - exchange.began)
        if exchange.prefilled:
            metrics.hand_over.observe(exchange.first - exchange.prefilled)
        if self._perf.on:
            self._perf.add(exchange, self._loop.time())

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Who asks: the name of the key, or the address when no keys are needed. Refused with 401."""
        if not self._keys.required:
            return (scope.get("client") or ("",))[0]
        owner = self._keys.owner(headers.get(b"authorization", b""))
        if owner is None:
            raise refusal(401, "an API key is needed: Authorization: Bearer KEY")
        return owner

    def _exchange(self, scope: Scope, headers: Headers, body: bytes, number: int, request_id: bytes, client: str) -> Exchange:
        chat = scope["path"] == CHAT
        try:
            asked = loads(body, "prompt_token_ids" if chat else "prompt")
        except ValueError as wrong:
            raise refusal(400, f"the body is not a JSON object: {wrong}") from None
        stream = asked.get("stream") or False
        if stream is not True and stream is not False:
            raise refusal(400, f"stream must be true or false, found {stream!r}")
        extra = b"x-request-id: %b\r\n" % request_id
        for name in PASSED_ON:
            if name in headers:
                extra += b"%b: %b\r\n" % (name, headers[name])
        session = next((value for name in SESSION_HEADERS if (value := headers.get(name, b"").strip())), b"")
        tokens, blocks = self._size(asked, chat)
        return Exchange(
            id=request_id.decode("latin-1"),
            path=CHAT.encode() if chat else COMPLETIONS.encode(),
            chat=chat,
            stream=stream,
            body=asked,
            ask=Ask(number, tokens, session.decode("latin-1"), blocks),
            extra=extra,
            client=client,
            began=self._loop.time(),
        )

    def _size(self, asked: dict[str, Any], chat: bool) -> tuple[int, tuple[int, ...]]:
        """(tokens of the prompt, hashes of its blocks): exact for token ids, estimated for text. Refused if there is no prompt."""
        prompt = asked.get("prompt_token_ids" if chat else "prompt")
        if chat and prompt is None:
            prompt = asked.get("messages")
            if not isinstance(prompt, list) or not prompt:
                raise refusal(400, "messages must be a list of at least one message")
        if prompt is None or (isinstance(prompt, Ids) and not len(prompt)):
            raise refusal(400, "a prompt is needed")
        if isinstance(prompt, Ids):
            raw, tokens = prompt.raw, len(prompt)
        elif isinstance(prompt, str) and not self._block_bytes:
            return len(prompt) // BYTES_PER_TOKEN + 1, ()
        else:
            raw = dumps(prompt)
            tokens = len(raw) // BYTES_PER_TOKEN + 1
        return tokens, policies.blocks_of(raw, self._block_bytes) if self._block_bytes else ()

    # pages

    async def _health(self, reply: Reply) -> None:
        ready = self._fleet.ready
        await reply.whole(200 if ready else 503, JSON, b"", 0 if ready else 1)

    async def _cluster_info(self, reply: Reply) -> None:
        await reply.whole(200, JSON, dumps(self._fleet.info()))

    async def _version(self, reply: Reply) -> None:
        await reply.whole(200, JSON, dumps({"version": __version__}))

    async def _models(self, reply: Reply) -> None:
        await reply.whole(200, JSON, await self._fleet.models())

    async def _prometheus(self, reply: Reply) -> None:
        await reply.whole(200, PROMETHEUS, self._metrics.text(self._fleet.table.by_url.values()).encode())

    async def _perf_metrics(self, reply: Reply) -> None:
        await reply.whole(200, JSON, dumps(await self._perf.take()))
