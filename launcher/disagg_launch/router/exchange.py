"""One client request on its way through the router: what was asked, what is known about it, and what went wrong with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple, Optional, Protocol

import orjson

from disagg_launch.router.policies import Ask
from disagg_launch.router.splice import dumps
from disagg_launch.router.workers import Worker


@dataclass(eq=False, slots=True)
class Exchange:
    """`body` is the client's JSON object; `extra` are header lines for the workers. Times are of the event loop's clock, in seconds.

    `only`: the worker of each role that it has to go to, whatever state that is in.
    `failed`: workers that did not do their part; `doubted`: context workers whose KV a generation worker could not use.
    `kept` is what the client was sent by the present generation worker, `prompt_ids` the prompt as the context worker read it.
    """

    id: str
    path: bytes
    chat: bool
    stream: bool
    body: dict[str, Any]
    ask: Ask
    extra: bytes
    client: str
    began: float
    number: int = 0
    ctx: str = ""
    gen: str = ""
    queued_s: float = 0.0
    prefilled: float = 0.0
    first: float = 0.0
    status: int = 0
    retries: int = 0
    failed: tuple[Worker, ...] = ()
    doubted: tuple[Worker, ...] = ()
    kept: Optional[Kept] = None
    prompt_ids: Any = None
    only: Optional[Mapping[str, Worker]] = None


@dataclass(slots=True)
class Kept:
    """The events a client has been sent, of one worker."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0


class Sink(Protocol):
    """Where an answer goes."""

    @property
    def started(self) -> bool:
        """Whether the client has been sent something, after which nothing can be taken back."""

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        """One complete answer."""

    def piece(self, data: bytes) -> Optional[asyncio.Future[None]]:
        """The next whole events of a stream. What comes back is done when the client can take more; None if it can now."""

    async def end(self) -> None:
        """The end of a stream, once the client has taken all of it."""


class Prefill(NamedTuple):
    """What a context worker left behind. `answer` is its response; `params` finds the KV; `ids` is the prompt as the worker saw it.

    `number` is the context worker's own id of the request. `finished`: the answer is complete already, there is nothing to generate.
    """

    answer: dict[str, Any]
    params: Optional[dict[str, Any]]
    ids: Any
    finished: bool = False
    number: int = 0


class Refused(Exception):
    """The request ends here with this answer: `status` and a JSON `body`; `retry_after_s` tells the client when to come again."""

    def __init__(self, status: int, body: bytes, retry_after_s: int = 0) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s


class WorkerFailed(Exception):
    """A worker did not do its part; another may. `answer` is what it said, if it said something (status, body)."""

    def __init__(self, worker: Worker, cause: str, answer: Optional[tuple[int, bytes]] = None) -> None:
        super().__init__(f"{worker.role} worker {worker.url}: {cause}")
        self.worker = worker
        self.cause = cause
        self.answer = answer


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(status: int, message: str, kind: str = "", param: Any = None, code: Any = None) -> bytes:
    """An error in OpenAI's shape."""
    kind = kind or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return dumps({"error": {"message": message, "type": kind, "param": param, "code": status if code is None else code}})


def refusal(status: int, message: str, retry_after_s: int = 0) -> Refused:
    """A `Refused` of the router's own."""
    return Refused(status, error_body(status, message), retry_after_s)


def passed_on(status: int, body: bytes) -> Refused:
    """A worker's own error with its status; its words are put into OpenAI's shape if they are not."""
    try:
        said = orjson.loads(body)
    except ValueError:
        said = body.decode("utf-8", "replace")
    if isinstance(said, dict) and "error" in said:
        return Refused(status, body)
    if isinstance(said, dict):
        message = said.get("message") or said.get("detail") or body.decode("utf-8", "replace")
        return Refused(status, error_body(status, str(message), str(said.get("type") or ""), said.get("param"), said.get("code")))
    return Refused(status, error_body(status, str(said)))
