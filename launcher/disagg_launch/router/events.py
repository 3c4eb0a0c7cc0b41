"""Server-sent events of the completions and chat endpoints, for the few cases in which a stream has to be looked into or made."""

from __future__ import annotations

from typing import Any

from disagg_launch.router.splice import dumps

__all__ = ["as_stream", "dumps", "event"]


def event(value: Any) -> bytes:
    """One event."""
    return b"data: " + dumps(value) + b"\n\n"


def as_stream(answer: dict[str, Any], chat: bool) -> bytes:
    """A whole answer as the events of a stream, without the last, [DONE]."""
    choices = []
    for choice in answer.get("choices", ()):
        one = dict(choice)
        if chat:
            one["delta"] = one.pop("message", {})
        choices.append(one)
    return event({**answer, "object": "chat.completion.chunk" if chat else "text_completion", "choices": choices})
