"""What featherweight workers say: each token is a hash of all before it, so an answer is right to its last token, or something was lost.

Standard library only: a worker starts without site-packages.
"""

from __future__ import annotations

import json
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Sequence


def encode(prompt: Any) -> list[int]:
    """Token ids of a prompt: as they are, or the bytes of a text or of messages."""
    if isinstance(prompt, list) and all(isinstance(one, int) for one in prompt):
        return prompt
    return list((prompt if isinstance(prompt, str) else json.dumps(prompt)).encode())


def next_token(ids: Sequence[int]) -> int:
    """The one token that follows these."""
    return zlib.crc32(",".join(map(str, ids)).encode()) % 997 + 3


def text_of(token: int) -> str:
    """What a token reads like."""
    return f" t{token}"


def generated(ids: Sequence[int], count: int) -> Iterator[int]:
    """The tokens that follow `ids`."""
    known = list(ids)
    for _ in range(count):
        known.append(next_token(known))
        yield known[-1]


def expected(prompt: Any, count: int) -> str:
    """The whole text that follows a prompt."""
    return "".join(map(text_of, generated(encode(prompt), count)))
