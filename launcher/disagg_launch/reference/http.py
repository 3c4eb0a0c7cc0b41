"""The worker's HTTP side: an ASGI application over the scheduler. It runs in one event loop; the model loop has its own thread."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Optional

import orjson

from disagg_launch import __version__
from disagg_launch.reference import answers, api
from disagg_launch.reference.answers import Choice
from disagg_launch.reference.batch import Scheduler
from disagg_launch.reference.models import Model
from disagg_launch.reference.request import Delta, Refused

log = logging.getLogger(__name__)

Json = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Json], Awaitable[None]]
Handler = Callable[[Receive, Send], Awaitable[None]]

LONG_BODY = 32 << 10
LONGEST_BODY = 16 << 20


# path -> whether it is the chat endpoint
COMPLETING = {"/v1/completions": False, "/v1/chat/completions": True}
# asks for `token_ids` in each chunk, by which a router can go on with the stream elsewhere should this worker die
WANTS_IDS = (b"x-return-token-ids", b"1")


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


class Failed(Exception):
    """The request failed; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class App:
    """The ASGI application. `draining` refuses new requests with 503."""

    def __init__(self, model: Model, scheduler: Scheduler, about: Json) -> None:
        self.draining = False
        self._model, self._scheduler, self._about = model, scheduler, about
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/health"): self._health,
            ("GET", "/health_generate"): self._health_generate,
            ("GET", "/version"): self._fixed({"version": __version__}),
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/server_info"): self._server_info,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        handler = self._handler(scope)
        if handler is None:
            status = 405 if scope["path"] in {*COMPLETING, *(path for _, path in self._routes)} else 404
            await _reply(send, status, answers.error(f"{scope['method']} {scope['path']} is not served here", status))
            return
        try:
            await handler(receive, send)
        except (api.BadRequest, Refused) as wrong:
            await _reply(send, 400, answers.error(str(wrong), 400))
        except Failed as wrong:
            await _reply(send, wrong.status, answers.error(str(wrong), wrong.status))
        except ClientGone:
            log.info("the client left: request cancelled")

    def _handler(self, scope: Mapping[str, Any]) -> Optional[Handler]:
        if scope["method"] == "POST" and scope["path"] in COMPLETING:
            return functools.partial(self._complete, chat=COMPLETING[scope["path"]], ids=WANTS_IDS in scope["headers"])
        return self._routes.get((scope["method"], scope["path"]))

    def _fixed(self, body: Json) -> Handler:
        async def handler(receive: Receive, send: Send) -> None:
            await _reply(send, 200, body)

        return handler

    async def _health(self, receive: Receive, send: Send) -> None:
        """200 only while requests can really be served."""
        self._refuse_unless_serving()
        await _reply(send, 200, None)

    async def _health_generate(self, receive: Receive, send: Send) -> None:
        """200 if the model makes a token now."""
        self._refuse_unless_serving()
        ask = api.parse(b'{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0}', True, self._model)
        async for _, delta in self._deltas(ask, receive):
            if delta.error:
                raise Failed(delta.error, 500)
        await _reply(send, 200, None)

    async def _models(self, receive: Receive, send: Send) -> None:
        card = {"id": self._model.name, "object": "model", "created": self._about["created"], "owned_by": "disagg-launch"}
        await _reply(send, 200, {"object": "list", "data": [card]})

    async def _server_info(self, receive: Receive, send: Send) -> None:
        now = {"active_requests": self._scheduler.load, "kv_tokens": self._scheduler.kv_tokens}
        await _reply(send, 200, {"disaggregated_params": None, **self._about, **now})

    async def _metrics(self, receive: Receive, send: Send) -> None:
        """Statistics of the iterations since the last call; at most the newest thousand."""
        stats = self._scheduler.stats
        await _reply(send, 200, [stats.popleft() for _ in range(len(stats))])

    async def _complete(self, receive: Receive, send: Send, chat: bool, ids: bool) -> None:
        self._refuse_unless_serving()
        raw = await _read_body(receive)
        # a long text is tokenised beside the event loop, which goes on serving others
        parse = functools.partial(api.parse, raw, chat, self._model)
        ask = await asyncio.to_thread(parse) if len(raw) > LONG_BODY else parse()
        if ask.body.stream and not ask.context_only:
            await self._stream(ask, receive, send, ids)
            return
        choices = [Choice() for _ in ask.prompts]
        async for index, delta in self._deltas(ask, receive):
            if delta.error:
                raise Failed(delta.error, delta.status)
            choices[index].add(delta)
        await _reply(send, 200, answers.whole(ask, self._model.name, choices))

    async def _stream(self, ask: api.Ask, receive: Receive, send: Send, ids: bool) -> None:
        """Server-sent events. The status line waits for the first token, so that an early failure has a proper status."""
        name, choices = self._model.name, [Choice() for _ in ask.prompts]
        started = False
        async for index, delta in self._deltas(ask, receive):
            if delta.error:
                if not started:
                    raise Failed(delta.error, delta.status)
                await _event(send, {"error": answers.error(delta.error, delta.status)})
                break
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            opening = not choices[index].tokens
            choices[index].add(delta)
            if delta.text or delta.finish or opening:
                await _event(send, answers.chunk(ask, name, index, delta, opening, choices[index].news() if ids else None))
        else:
            if ask.body.stream_options and ask.body.stream_options.include_usage:
                await _event(send, answers.usage_chunk(ask, name, choices))
            await _event(send, None)
        await send({"type": "http.response.body", "body": b""})

    async def _deltas(self, ask: api.Ask, receive: Receive) -> AsyncIterator[tuple[int, Delta]]:
        """(choice, delta) until all choices have ended. If the caller or the client leaves before that, the rest is cancelled."""
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Optional[tuple[int, Delta]]] = asyncio.Queue()

        def emit_to(index: int) -> Callable[[Delta], None]:
            return lambda delta: _call(loop, news, (index, delta))

        requests = [api.request(ask, prompt, self._model, self._scheduler.limits.sequence) for prompt in ask.prompts]
        watch = loop.create_task(_tell_when_gone(receive, news))
        numbers: list[int] = []
        delivered = False
        try:
            for index, request in enumerate(requests):
                numbers.append(self._scheduler.submit(replace(request, emit=emit_to(index))))
            left = len(numbers)
            while left:
                item = await news.get()
                if item is None:
                    raise ClientGone
                left -= bool(item[1].finish or item[1].error)
                if not left and watch.done():
                    raise ClientGone
                yield item
            delivered = True
        finally:
            watch.cancel()
            if not delivered:
                for number in numbers:
                    self._scheduler.cancel(number)

    def _refuse_unless_serving(self) -> None:
        if self._scheduler.failed:
            raise Failed(self._scheduler.failed, 500)
        if self.draining:
            raise Failed("the worker is stopping", 503)


STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


def _call(loop: asyncio.AbstractEventLoop, news: asyncio.Queue[Optional[tuple[int, Delta]]], item: tuple[int, Delta]) -> None:
    """Put an item from the model thread; when the loop has ended nobody listens any more."""
    try:
        loop.call_soon_threadsafe(news.put_nowait, item)
    except RuntimeError:
        log.debug("an answer came after the server had stopped")


async def _tell_when_gone(receive: Receive, news: asyncio.Queue[Optional[tuple[int, Delta]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    news.put_nowait(None)


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > LONGEST_BODY:
            raise Failed(f"the body is longer than {LONGEST_BODY} bytes", 413)
        if not message.get("more_body"):
            return bytes(body)


async def _reply(send: Send, status: int, body: Any) -> None:
    raw = b"" if body is None else orjson.dumps(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def _event(send: Send, body: Optional[Json]) -> None:
    raw = b"[DONE]" if body is None else orjson.dumps(body)
    await send({"type": "http.response.body", "body": b"data: " + raw + b"\n\n", "more_body": True})
