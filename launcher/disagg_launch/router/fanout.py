"""Several prompts in one request, or `n` answers to one. Workers give one prompt one choice, so each choice is an exchange of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Callable, Coroutine, Optional

import orjson

from disagg_launch.router import events
from disagg_launch.router.exchange import Exchange, Sink, refusal
from disagg_launch.router.policies import Ask
from disagg_launch.router.splice import Ids, dumps
from disagg_launch.router.together import together

MOST_CHOICES = 256

Serve = Callable[[Exchange, Sink], Coroutine[Any, Any, None]]


def prompts_of(body: dict[str, Any]) -> list[Any]:
    """The prompts of a completions body: one for a string or a list of ids, else one for each member of the list. Refused if wrong."""
    prompt = body.get("prompt")
    if isinstance(prompt, (str, Ids)):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise refusal(400, "prompt must be a string, a list of token ids, or a list of those")
    if all(type(one) is int for one in prompt):
        return [prompt]
    for one in prompt:
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(type(i) is int for i in one)):
            raise refusal(400, "each prompt of a list must be a string or a list of token ids")
    return prompt


def spread(exchange: Exchange) -> list[Exchange]:
    """One exchange for each choice, in the order of their indices; the exchange itself if it is the only one. Refused if too many."""
    prompts = [None] if exchange.chat else prompts_of(exchange.body)
    count = exchange.body.get("n")
    count = 1 if count is None else count
    if type(count) is not int or count < 1 or count * len(prompts) > MOST_CHOICES:
        raise refusal(400, f"n must be a whole number from 1, and all choices together at most {MOST_CHOICES}")
    if exchange.body.get("best_of") not in (None, count):
        raise refusal(400, "best_of is not served disaggregated: ask for n")
    if not isinstance(exchange.body.get("stream_options"), (dict, type(None))):
        raise refusal(400, "stream_options must be an object")
    seed = exchange.body.get("seed")
    if count > 1 and seed is not None and (type(seed) is not int or not -(2**63) <= seed <= 2**63 - MOST_CHOICES):
        raise refusal(400, "seed must be a whole number of 63 bits for several answers, each of which gets one of its own")
    if count == 1 and len(prompts) == 1:
        if not exchange.chat and exchange.body["prompt"] is not prompts[0]:
            exchange.body = {**exchange.body, "prompt": prompts[0]}
        return [exchange]
    return [_one(exchange, prompt, at, count) for prompt in prompts for at in range(count)]


def _one(exchange: Exchange, prompt: Any, at: int, count: int) -> Exchange:
    body = {key: value for key, value in exchange.body.items() if key not in ("n", "best_of")}
    if prompt is not None:
        body["prompt"] = prompt
    if count > 1 and body.get("seed") is not None:
        body["seed"] += at  # the same seed would make n times the same answer
    ask = exchange.ask
    return replace(exchange, body=body, ask=Ask(ask.number + at, ask.tokens // count, ask.session, ask.blocks))


async def serve_all(serve: Serve, parts: list[Exchange], count: int, sink: Sink) -> None:
    """Serve the parts at once and join their answers; the first one that fails ends the others. `count` is n."""
    stream = parts[0].stream
    wanted = (parts[0].body.get("stream_options") or {}).get("include_usage")
    joined = [_Part(at, sink if stream else None) for at in range(len(parts))]
    await together(map(serve, parts, joined))
    usage = _usage([one.usage for one in joined], count)
    if stream:
        last = events.event({**joined[0].head, "choices": [], "usage": usage}) if wanted else b""
        sink.piece(last + events.DONE)
        await sink.end()
        return
    choices = [{**choice, "index": one.index} for one in joined for choice in one.head.get("choices", ())]
    await sink.whole(200, b"application/json", dumps({**joined[0].head, "choices": choices, "usage": usage}))


def sum_up(exchange: Exchange, parts: list[Exchange]) -> None:
    """Where the parts went, how often they were sent again and when their first tokens came, for the exchange they came from."""
    exchange.ctx = ",".join(sorted({part.ctx for part in parts}))
    exchange.gen = ",".join(sorted({part.gen for part in parts}))
    exchange.retries = sum(part.retries for part in parts)
    exchange.prefilled = min(part.prefilled for part in parts)
    exchange.first = min(part.first for part in parts)


def _usage(parts: list[dict[str, Any]], count: int) -> dict[str, int]:
    prompt = sum(part.get("prompt_tokens") or 0 for part in parts[::count])
    completion = sum(part.get("completion_tokens") or 0 for part in parts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _Part:
    """One choice's sink: an answer is kept, a stream's chunks go on under this choice's index."""

    def __init__(self, index: int, sink: Optional[Sink]) -> None:
        self.index = index
        self.started = False
        self.head: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self._sink = sink

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        """Keep the answer."""
        self.started = True
        self.head = orjson.loads(body)
        self.usage = self.head.get("usage") or {}

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        """Chunks, put under this index."""
        self.started = True
        out = b""
        for one in events.values(data):
            self.usage = one.get("usage") or self.usage
            self.head = self.head or {key: value for key, value in one.items() if key not in ("choices", "usage")}
            if one.get("choices"):
                out += events.event({**one, "choices": [{**choice, "index": self.index} for choice in one["choices"]]})
        return self._sink.piece(out) if out and self._sink else None

    async def end(self) -> None:
        """The others may still be under way."""
