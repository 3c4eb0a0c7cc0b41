"""YAML with late-bound values in it: plain data whose leaves may be `launch.Ref`s or tuples of parts."""

from __future__ import annotations

import re
from typing import Any

import yaml

from disagg_launch.launch import Ref, Text

# A private-use character marks a place; text that holds it already is refused by `_marked`.
_MARK = "\ue0f8"


def yaml_text(value: Any) -> Text:
    """`value` as a YAML document whose Refs stay late-bound.

    Tuples are texts made of parts (strings and Refs), not lists. ValueError if a string holds the private mark U+E0F8.
    """
    refs: list[Ref] = []
    dumped = yaml.safe_dump(_marked(value, refs), sort_keys=False, allow_unicode=True, width=10_000)
    if not refs:
        return dumped
    pieces = re.split(f"{_MARK}(\\d+){_MARK}", dumped)
    return tuple(refs[int(p)] if n % 2 else p for n, p in enumerate(pieces) if p)


def _marked(value: Any, refs: list[Ref]) -> Any:
    if isinstance(value, Ref):
        refs.append(value)
        return f"{_MARK}{len(refs) - 1}{_MARK}"
    if isinstance(value, tuple):
        return "".join(_marked(part, refs) for part in value)
    if isinstance(value, dict):
        return {_marked(k, refs): _marked(v, refs) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(v, refs) for v in value]
    if isinstance(value, str) and _MARK in value:
        raise ValueError(f"{value!r} holds the character U+E0F8, which is kept for the program's own use")
    return value
