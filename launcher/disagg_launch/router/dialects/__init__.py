"""How workers are spoken to: one module for each wire protocol, chosen by `front_door.dialect`.

A dialect is a module with `CONCURRENT` (whether both hops are asked at once) and the functions `context_body(exchange, id)`,
`read_context(exchange, answer)` and `generation_body(exchange, prefill, id)`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from disagg_launch.router.exchange import Exchange, Prefill


class Dialect(Protocol):
    """What a dialect module offers."""

    CONCURRENT: bool

    def context_body(self, exchange: Exchange, number: int) -> bytes:
        """The body of the first hop. `number` is the id both hops have in common."""

    def read_context(self, exchange: Exchange, answer: bytes) -> Prefill:
        """What the first hop's answer says. ValueError if it does not say what is needed."""

    def generation_body(self, exchange: Exchange, prefill: Prefill, number: int) -> bytes:
        """The body of the second hop."""


def named(name: str) -> Dialect:
    """The dialect called `name`."""
    return cast(Dialect, importlib.import_module(f"disagg_launch.router.dialects.{name}"))
