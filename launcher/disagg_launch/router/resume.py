"""Going on with a stream whose generation worker died: what was sent is read back, and the rest is asked for elsewhere.

Workers are asked to put `token_ids` into each chunk (`dialect.STREAM_EXTRA`): the ids whose text has been sent to the end, so that
prompt plus ids is exactly what the client has seen. While a stream runs its bytes are only kept; they are read when it breaks off.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Optional

from disagg_launch.router import events
from disagg_launch.router.exchange import Exchange, Kept, Sink
from disagg_launch.router.relay import KEEP_BYTES
from disagg_launch.router.splice import Ids, as_ids

DEFAULT_MAX_TOKENS = 16  # what OpenAI's completions endpoint makes of a request without max_tokens


@dataclass(frozen=True)
class Rest:
    """What is still to be done: the exchange that asks for it and the sink that joins it on, or just the `finished` last events."""

    exchange: Exchange
    sink: Sink
    finished: bytes = b""


def go_on(exchange: Exchange, sink: Sink) -> Optional[Rest]:
    """How to go on with a stream that broke off; None if that cannot be known: no ids in it, or too long."""
    kept, prompt = exchange.kept, as_ids(exchange.prompt_ids)
    if kept is None or kept.size >= KEEP_BYTES or prompt is None:
        return None
    try:
        sent = list(events.values(b"".join(kept.pieces)))
    except ValueError:
        return None
    ids: list[int] = []
    for one in sent:
        for choice in one.get("choices") or ():
            if not isinstance(choice.get("token_ids"), list):
                return None
            ids += choice["token_ids"]
    head: dict[str, Any] = {key: sent[0][key] for key in ("id", "object", "created", "model") if key in sent[0]} if sent else {}
    reason = next((c.get("finish_reason") for one in sent for c in one.get("choices") or () if c.get("finish_reason")), None)
    left = _left(exchange, len(ids))
    if reason is not None or (left is not None and left <= 0):
        return Rest(exchange, sink, _ending(exchange, head, reason, len(prompt), len(ids), sent))
    return Rest(_shorter(exchange, prompt.plus(ids), len(ids), left), Joined(sink, head, len(ids), bool(sent)))


def _left(exchange: Exchange, done: int) -> Optional[int]:
    """How many tokens are still to come; None when there is no limit but the model's."""
    body = exchange.body
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or (None if exchange.chat else DEFAULT_MAX_TOKENS)
    return None if limit is None else limit - done


def _shorter(exchange: Exchange, prompt: Ids, done: int, left: Optional[int]) -> Exchange:
    """The exchange that asks for the rest: its prompt is what is there already."""
    body: dict[str, Any] = {key: value for key, value in exchange.body.items() if key not in ("echo", "max_completion_tokens")}
    body["prompt_token_ids" if exchange.chat else "prompt"] = prompt
    if left is not None:
        body["max_tokens"] = left
    if body.get("min_tokens"):
        body["min_tokens"] = max(0, body["min_tokens"] - done)
    return replace(exchange, body=body, kept=Kept(), prompt_ids=None)


def _ending(exchange: Exchange, head: dict[str, Any], reason: Any, prompt: int, done: int, sent: list[dict[str, Any]]) -> bytes:
    """The last events of a stream that lacks nothing else."""
    out = b""
    if reason is None:
        rest: dict[str, Any] = {"delta": {}} if exchange.chat else {"text": ""}
        out += events.event({**head, "choices": [{"index": 0, **rest, "logprobs": None, "finish_reason": "length"}]})
    wanted = (exchange.body.get("stream_options") or {}).get("include_usage")
    if wanted and not any(one.get("usage") for one in sent):
        usage = {"prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done}
        out += events.event({**head, "choices": [], "usage": usage})
    return out + events.DONE


class Joined:
    """A sink that makes the second part of a stream look like the first one's: same id, no second role, usage over both parts."""

    def __init__(self, sink: Sink, head: dict[str, Any], done: int, opened: bool) -> None:
        self._sink = sink
        self._head = head
        self._done = done
        self._opened = opened
        self.started = False

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        """Never called: the exchange is a stream."""
        raise NotImplementedError

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        """Whole events, put right."""
        self.started = True
        out = b"".join(events.event(self._right(one)) for one in events.values(data))
        out += events.DONE if events.is_last(data) else b""
        return self._sink.piece(out) if out else None  # a comment, perhaps: nothing at all would be the end of a chunked answer

    async def end(self) -> None:
        """The end of the stream."""
        await self._sink.end()

    def _right(self, one: dict[str, Any]) -> dict[str, Any]:
        for choice in one.get("choices") or ():
            if self._opened and isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
            self._opened = True
        usage = one.get("usage")
        if usage:
            usage["prompt_tokens"] -= self._done
            usage["completion_tokens"] = usage.get("completion_tokens", 0) + self._done
        return {**one, **self._head}
