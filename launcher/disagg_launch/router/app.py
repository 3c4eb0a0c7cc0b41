"""The application: paths, keys, and completions from the request to the last byte of the answer."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from typing import Any, Awaitable, Callable, Coroutine

from disagg_launch import __version__
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router import asgi, fanout, policies
from disagg_launch.router.access import AccessLog
from disagg_launch.router.admin import Admin
from disagg_launch.router.exchange import Exchange, Refused, refusal
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.keys import Keys
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.perf import Perf
from disagg_launch.router.policies import Ask
from disagg_launch.router.processes import Siblings
from disagg_launch.router.reply import JSON, Reply, Request
from disagg_launch.router.splice import Ids, as_ids, dumps, loads
from disagg_launch.router.trial import Trial

COMPLETIONS, CHAT = b"/v1/completions", b"/v1/chat/completions"
_COMPLETING = frozenset({COMPLETIONS, CHAT})
PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
BYTES_PER_TOKEN = 4  # an estimate for text, which the router never tokenises
CLIENT_LEFT = 499  # what the access log says of a client that did not wait
# headers that go on to the workers; everything else, keys above all, stays here
PASSED_ON = (b"traceparent", b"tracestate", b"x-session-id", b"x-correlation-id")
# what only the router says to workers, in any dialect: with it a client could send one to fetch KV from an address of its choice
OURS = ("disaggregated_params", "kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
SESSION_HEADERS = (b"x-session-id", b"x-correlation-id", b"x-session-affinity", b"x-multi-turn-session-id")

log = logging.getLogger(__name__)


class App:
    """Answers requests. Made inside the running event loop.

    Applications are mounted at whole paths, or at a first part such as "/ui/" with all below it: `inner` ones at the port inside (the
    admin port, or the plain one beside TLS), `outer` ones at the other. Without one there is one port for all, and they are the same.
    """

    def __init__(
        self,
        fleet: Fleet,
        flow: Flow,
        metrics: Metrics,
        outer: asgi.Mounts,
        inner: asgi.Mounts,
        siblings: Siblings,
        load: Callable[[], Any],
    ) -> None:
        config = fleet.config
        self._discovers = config.discovers
        self._outer = {path.encode(): application for path, application in outer.items()}
        self._inner = {path.encode(): application for path, application in inner.items()}
        self._fleet, self._flow, self._metrics = fleet, flow, metrics
        self._door = config.front_door
        self._inside_port = config.addresses[1][1] if config.addresses[1:] else 0
        self._keys = Keys(self._door.api_keys_file, self._door.api_keys_env)
        self.admin = Admin(fleet, self._door, siblings, load)
        self._trial = Trial(fleet, flow)
        self._perf = Perf(fleet.table, config.perf_metrics_max_requests)
        self.access = AccessLog(self._door.access_log)
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._prefix = os.urandom(4).hex().encode()
        options = [config.roles[role] for role in (CONTEXT, GENERATION) if config.roles[role].policy in policies.READ_BLOCKS]
        per_block = min((int(role.options.get("tokens_per_block", 32)) for role in options), default=0)
        self._block_bytes = per_block * BYTES_PER_TOKEN
        self._pages: dict[bytes, Callable[[Reply], Awaitable[None]]] = {
            b"/health": self._health,
            b"/cluster_info": self._cluster_info,
            b"/version": self._version,
            b"/v1/models": self._models,
            b"/metrics": self._prometheus,
            b"/prometheus/metrics": self._prometheus,
            b"/perf_metrics": self._perf_metrics,
        }

    def handle(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        number = next(self._numbers)
        reply.request_id = request.headers.get(b"x-request-id") or b"%b-%x" % (self._prefix, number)
        path = request.path.partition(b"?")[0]
        if path in _COMPLETING and request.port != self._inside_port and not self._fleet.closed:
            return self._complete(request, path, reply, number)
        return self._other(request, path, reply)

    async def _other(self, request: Request, path: bytes, reply: Reply) -> None:
        """What is no completion, or none yet."""
        admin_port = self._door.admin_port
        mounts = self._inner if request.port == self._inside_port else self._outer
        try:
            if self._fleet.closed and path.startswith(b"/v1/"):
                raise refusal(503, f"{self._fleet.lacking()}: the deployment is starting", retry_after_s=1)
            if path == b"/admin/probe" and admin_port in (0, request.port):
                self.admin.admit(request.headers.get(b"authorization", b""), request.peer)
                await reply.whole(200, JSON, await self._trial.answer(bytes(request.body)))
            elif path.startswith(b"/admin/") and admin_port in (0, request.port):
                await reply.whole(200, JSON, self.admin.answer(request, path[7:].decode("latin-1")))
            elif mount := mounts.get(path) or mounts.get(path[: path.find(b"/", 1) + 1]):
                await asgi.answer(mount, request, reply)
            else:
                await self._page(request, path, reply)
        except Refused as no:
            await reply.refuse(no)

    async def _page(self, request: Request, path: bytes, reply: Reply) -> None:
        page = self._pages.get(path)
        if page is None:
            raise refusal(404, f"{path.decode('latin-1')} is not served here")
        if request.method not in (b"GET", b"HEAD"):
            raise refusal(405, f"{path.decode('latin-1')} takes GET")
        if path == b"/v1/models":
            self._client(request)
        await page(reply)

    async def _complete(self, request: Request, path: bytes, reply: Reply, number: int) -> None:
        """A completion."""
        self._metrics.count("total_requests")
        try:
            client = self._client(request)
            if request.method != b"POST":
                raise refusal(405, f"{path.decode()} takes POST")
            exchange = self._exchange(request, path, number, reply.request_id, client)
            parts = fanout.spread(exchange)
        except Refused as no:
            self._metrics.count("validation_exceptions")
            return await reply.refuse(no)
        self._metrics.count("stream_requests" if exchange.stream else "nonstream_requests")
        self._metrics.in_flight += 1
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
        finally:
            self._metrics.in_flight -= 1
            if reply.left:
                self._metrics.count("client_disconnects")
            self.access.add(exchange, CLIENT_LEFT if reply.left else reply.status)

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
        if not metrics.first_token_at:
            metrics.first_token_at = time.time() - self._loop.time() + exchange.first
            log.info("first token sent at %.3f", metrics.first_token_at)
        if exchange.prefilled:
            metrics.hand_over.observe(exchange.first - exchange.prefilled)
        if self._perf.on:
            self._perf.add(exchange, self._loop.time())

    def _client(self, request: Request) -> str:
        """Who asks: the name of the key, or the address when no keys are needed. Refused with 401."""
        if not self._keys.required:
            return request.peer
        owner = self._keys.owner(request.headers.get(b"authorization", b""))
        if owner is None:
            raise refusal(401, "an API key is needed: Authorization: Bearer KEY")
        return owner

    def _exchange(self, request: Request, path: bytes, number: int, request_id: bytes, client: str) -> Exchange:
        chat = path == CHAT
        headers = request.headers
        raw, request.body = bytes(request.body), b""  # what is needed of it is decoded: long prompts are not kept twice
        try:
            asked = loads(raw, "prompt_token_ids" if chat else "prompt")
        except ValueError as wrong:
            raise refusal(400, f"the body is not a JSON object: {wrong}") from None
        for name in OURS:
            asked.pop(name, None)
        stream = asked.get("stream") or False
        if stream is not True and stream is not False:
            raise refusal(400, f"stream must be true or false, found {stream!r}")
        extra = b"x-request-id: %b\r\n" % request_id
        session = b""
        if len(headers) > 3:
            extra += b"".join(b"%b: %b\r\n" % (name, headers[name]) for name in PASSED_ON if name in headers)
            session = next((value for name in SESSION_HEADERS if (value := headers.get(name, b"").strip())), b"")
        tokens, blocks = self._size(asked, chat)
        return Exchange(
            id=request_id.decode("latin-1"),
            path=path,
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
        if prompt is None or (isinstance(prompt, (list, Ids)) and not len(prompt)):
            raise refusal(400, "a prompt is needed")
        if isinstance(prompt, str) and not self._block_bytes:
            return len(prompt) // BYTES_PER_TOKEN + 1, ()
        ids = as_ids(prompt)
        raw = ids.raw if ids else dumps(prompt)
        tokens = len(ids) if ids else len(raw) // BYTES_PER_TOKEN + 1
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
