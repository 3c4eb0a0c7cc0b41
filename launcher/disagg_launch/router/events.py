"""Server-sent events of the completions and chat endpoints, for the few cases in which a stream has to be looked into or made."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

import orjson

from disagg_launch.router.exchange import Sink
from disagg_launch.router.splice import dumps

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One event."""
    return b"data: " + dumps(value) + b"\n\n"


def split(data: bytes) -> tuple[bytes, bytes]:
    """(whole events, the beginning of the next one). Events end in an empty line, with LF or CR LF."""
    lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    end = max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)
    return data[:end], data[end:]


def is_last(data: bytes) -> bool:
    """Whether these whole events end with the one that ends a stream."""
    return data.endswith((DONE, b"data: [DONE]\r\n\r\n"))


def values(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of whole events, [DONE] left out. ValueError if one is not JSON."""
    for line in data.splitlines():
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            value = orjson.loads(line[5:])
            if isinstance(value, dict):
                yield value


async def send_whole(answer: Mapping[str, Any], stream: bool, chat: bool, sink: Sink) -> None:
    """A complete answer into the sink: as it is, or as the one chunk of a stream."""
    if not stream:
        await sink.whole(200, b"application/json", dumps(answer))
        return
    choices = []
    for choice in answer.get("choices", ()):
        one = dict(choice)
        if chat:
            one["delta"] = one.pop("message", {})
        choices.append(one)
    sink.piece(event({**answer, "object": "chat.completion.chunk" if chat else "text_completion", "choices": choices}) + DONE)
    await sink.end()
