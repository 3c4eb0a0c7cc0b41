"""SGLang's protocol: both hops get the same request at once, with a room in which the decode server meets the prefill server."""

from __future__ import annotations

import secrets
from typing import Any, Mapping, Optional

from disagg_launch.router.exchange import Exchange, Prefill
from disagg_launch.router.splice import dumps
from disagg_launch.router.workers import Worker

CONCURRENT = True
STREAM_EXTRA = b""  # its chunks have no token ids, so that a broken stream cannot be gone on with
DEFAULT_BOOTSTRAP_PORT = 8998


def offers(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The port at which a prefill server is met, from its /server_info."""
    port = info.get("disaggregation_bootstrap_port")
    return {"bootstrap_port": port} if isinstance(port, int) else {}


def no_prefill() -> Prefill:
    """A decode server that is told of no room does the prompt itself."""
    return Prefill({}, None, None)


def early(exchange: Exchange, number: int, worker: Worker) -> Prefill:
    """A room at this prefill server; its number cannot be guessed."""
    port = worker.offers.get("bootstrap_port", DEFAULT_BOOTSTRAP_PORT)
    room = {"bootstrap_host": worker.url.rpartition(":")[0], "bootstrap_port": port, "bootstrap_room": secrets.randbits(63)}
    return Prefill({}, room, None)


def context_body(exchange: Exchange, number: int, early: Optional[Prefill]) -> bytes:
    """The client's request and the room."""
    return dumps({**exchange.body, **((early and early.params) or {})})


def read_context(exchange: Exchange, answer: bytes) -> Prefill:
    """Never called: the answer is the decode server's."""
    raise NotImplementedError


def generation_body(exchange: Exchange, prefill: Prefill, number: int) -> bytes:
    """The same body as the prefill server's."""
    return dumps({**exchange.body, **(prefill.params or {})})
