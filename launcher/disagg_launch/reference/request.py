"""What the scheduler is asked, what it answers, and a request under way. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

from disagg_launch.reference.sampling import Sampling
from disagg_launch.reference.text import Text
from disagg_launch.reference.ticket import Ticket


@dataclass(frozen=True)
class Limits:
    """Bounds of an instance. Counts of sequences and tokens; `pool` and `buffer` bound the KV memory of running and of kept sequences."""

    batch: int
    sequence: int
    iteration: int
    pool: int
    buffer: int
    transfer_timeout_s: float


@dataclass(frozen=True)
class Delta:
    """News of a request: text and the token behind it, at the end `finish` ("stop" or "length"), or an `error` with its HTTP status.

    `held`: some of the text of the tokens so far is still held back.
    The end of a context-only request that goes on elsewhere has a `ticket`.
    """

    text: str = ""
    token: Optional[int] = None
    finish: str = ""
    ticket: Optional[Ticket] = None
    error: str = ""
    status: int = 200
    held: bool = False


@dataclass(frozen=True)
class Request:
    """What to answer. `emit` is called from the loop's thread. `context_only` stops after the first token and keeps the KV cache;
    a `ticket` with `first` tokens makes it generation-only."""

    prompt: tuple[int, ...]
    limit: int
    sampling: Sampling
    emit: Callable[[Delta], None]
    stops: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    context_only: bool = False
    ticket: Optional[Ticket] = None
    first: tuple[int, ...] = ()


class Refused(Exception):
    """The request can never be served here; the message says why. Answered with 400."""


@dataclass(eq=False)
class Sequence:
    """A request under way. `tokens` is prompt and answer, the first `filled` of which are in the cache.

    `identity` is id and key of the kept cache of a context-only request.
    """

    number: int
    request: Request
    text: Text
    tokens: list[int]
    capacity: int
    filled: int = 0
    missing: int = 0  # ranks that still pull
    identity: tuple[int, str] = (0, "")

    @property
    def made(self) -> int:
        """How many tokens the answer has."""
        return len(self.tokens) - len(self.request.prompt)


def capacity(request: Request, limits: Limits) -> int:
    """How many tokens of KV cache the request may come to need; a context-only one its prompt."""
    return len(request.prompt) if request.context_only else min(len(request.prompt) + request.limit, limits.sequence)


def check(request: Request, limits: Limits, model: str) -> None:
    """Refused, with the reason, if the request can never be served within the limits, or its ticket is for another model."""
    prompt, needed = len(request.prompt), capacity(request, limits)
    if not prompt:
        raise Refused("the prompt is empty: at least one token is needed")
    if prompt >= limits.sequence:
        raise Refused(f"the prompt has {prompt} tokens: at most {limits.sequence - 1} fit the maximum sequence length {limits.sequence}")
    if needed > limits.pool:
        raise Refused(f"the request needs {needed} tokens of KV cache, the pool has {limits.pool}: lower max_tokens")
    if request.context_only and prompt > limits.buffer:
        raise Refused(f"the prompt has {prompt} tokens, the transfer buffer (max_tokens_in_buffer) holds {limits.buffer}")
    if request.ticket and request.ticket.model != model:
        raise Refused("the context worker serves another model than this generation worker: their KV caches do not fit")
    if request.ticket and request.ticket.tokens != prompt:
        raise Refused(f"the context worker holds {request.ticket.tokens} tokens, the prompt has {prompt}: send its prompt_token_ids")
