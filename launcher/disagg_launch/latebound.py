"""YAML and JSON with late-bound values in it: plain data whose leaves may be `launch.Ref`s or tuples of parts."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from disagg_launch.errors import BadInput
from disagg_launch.launch import Ref, Text

# What stands for a Ref while the YAML is written; text that looks like it is refused by `_marked`.
_MARK = re.compile(r"<<late-bound (\d+)>>")


def yaml_text(value: Any) -> Text:
    """`value` as a YAML document whose Refs stay late-bound.

    Tuples are texts made of parts (strings and Refs), not lists. BadInput if a string holds the mark `<<late-bound N>>`.
    """
    refs: list[Ref] = []
    # ASCII: PyYAML writes some Unicode line breaks in a form that it reads back as other text
    dumped = yaml.safe_dump(_marked(value, refs), sort_keys=False, width=10_000)
    if not refs:
        return dumped
    pieces = _MARK.split(dumped)
    return tuple(refs[int(p)] if n % 2 else p for n, p in enumerate(pieces) if p)


def json_text(value: Any) -> Text:
    """`value` as JSON on one line whose Refs, each of which stands for a number, stay late-bound. BadInput as for `yaml_text`."""
    refs: list[Ref] = []
    pieces = re.split(f'"{_MARK.pattern}"', json.dumps(_marked(value, refs)))
    return tuple(refs[int(p)] if n % 2 else p for n, p in enumerate(pieces) if p) if refs else pieces[0]


def _marked(value: Any, refs: list[Ref]) -> Any:
    if isinstance(value, Ref):
        refs.append(value)
        return f"<<late-bound {len(refs) - 1}>>"
    if isinstance(value, tuple):
        return "".join(_marked(part, refs) for part in value)
    if isinstance(value, dict):
        return {_marked(k, refs): _marked(v, refs) for k, v in value.items()}
    if isinstance(value, list):
        return [_marked(v, refs) for v in value]
    if isinstance(value, str) and _MARK.search(value):
        raise BadInput(f"{value!r} holds a mark that is kept for the program's own use; write it in another way")
    return value
