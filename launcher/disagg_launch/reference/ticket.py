"""The right to fetch one request's KV cache: who holds what of it, and the secret key. It travels in `encoded_opaque_state`."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from disagg_launch.reference.grid import Rect


@dataclass(frozen=True)
class Holder:
    """A context rank's KV port and the rectangle it holds."""

    host: str
    port: int
    rect: Rect


@dataclass(frozen=True)
class Ticket:
    """The right to fetch one request's KV cache. `key` is hex; `model` is the fingerprint both sides must share."""

    request: int
    key: str
    tokens: int
    model: str
    holders: tuple[Holder, ...]

    def encode(self) -> str:
        """Base64 text for `encoded_opaque_state`."""
        return base64.b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode()

    @staticmethod
    def decode(text: str) -> Ticket:
        """The ticket in that text. ValueError if there is none."""
        try:
            raw = json.loads(base64.b64decode(text, validate=True))
            holders = tuple(Holder(str(one["host"]), int(one["port"]), rect_of(one["rect"])) for one in raw["holders"])
            bytes.fromhex(raw["key"])
            return Ticket(int(raw["request"]), raw["key"], int(raw["tokens"]), str(raw["model"]), holders)
        except (TypeError, KeyError, AttributeError, ValueError) as wrong:
            raise ValueError(f"encoded_opaque_state is not one of ours ({wrong})") from None


def new_identity() -> tuple[int, str]:
    """(request id, key in hex), neither of which can be guessed. The id is a positive 63-bit number."""
    return secrets.randbelow(2**63 - 1) + 1, secrets.token_hex(32)


def rect_of(raw: Mapping[str, Any]) -> Rect:
    """The rectangle in a JSON value. KeyError, TypeError or ValueError if there is none."""
    return Rect(int(raw["layer0"]), int(raw["layer1"]), int(raw["head0"]), int(raw["head1"]))
