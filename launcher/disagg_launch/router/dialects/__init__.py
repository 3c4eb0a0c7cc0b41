"""How workers are spoken to: one module for each wire protocol, chosen by `front_door.dialect`.

A dialect is a module with what `Dialect` names.
"""

from __future__ import annotations

import importlib
from typing import Any, Mapping, Optional, Protocol, cast

from disagg_launch.router.exchange import Exchange, Prefill
from disagg_launch.router.workers import Worker


class Dialect(Protocol):
    """What a dialect module offers."""

    CONCURRENT: bool  # whether both hops are always asked at once
    STREAM_EXTRA: bytes  # header lines that ask a generation worker for the token ids of each chunk

    def offers(self, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """What of a context worker's /server_info is needed to ask both hops at once; kept as `Worker.offers`."""

    def no_prefill(self) -> Prefill:
        """What stands for a context worker's answer when only generation is measured."""

    def early(self, exchange: Exchange, number: int, worker: Worker) -> Prefill:
        """What can be said of a prefill before it is done, when both hops are asked at once; `worker` is the context worker."""

    def context_body(self, exchange: Exchange, number: int, early: Optional[Prefill]) -> bytes:
        """The body of the first hop. `number` is the id both hops have in common; `early` is given when both are asked at once."""

    def read_context(self, exchange: Exchange, answer: bytes) -> Prefill:
        """What the first hop's answer says. ValueError if it does not say what is needed."""

    def generation_body(self, exchange: Exchange, prefill: Prefill, number: int) -> bytes:
        """The body of the second hop."""


def named(name: str) -> Dialect:
    """The dialect called `name`."""
    return cast(Dialect, importlib.import_module(f"disagg_launch.router.dialects.{name}"))
