"""A section's engine keys as the flags of an engine's command line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def words(keys: Mapping[str, Any], dash: str = "-", negative: str = "") -> Iterator[str]:
    """`--key value` for each key, underscores written as `dash`.

    true is the bare flag; false is the flag behind `negative` ("no-"), or nothing where the engine has no such form; null is nothing;
    a list is several words; a map is JSON.
    """
    for key, value in keys.items():
        name = key.replace("_", dash)
        if value is True:
            yield f"--{name}"
        elif value is False:
            if negative:
                yield f"--{negative}{name}"
        elif value is not None:
            yield f"--{name}"
            yield from [text(one) for one in value] if isinstance(value, (list, tuple)) else [text(value)]


def known(engine: str) -> frozenset[str]:
    """The keys that are flags of an engine, from the table read from its wheel (tables/read_flags.py)."""
    return frozenset(name.lstrip("-").replace("-", "_") for name in table(engine)["flags"])


def table(engine: str) -> dict[str, Any]:
    """What was read from an engine's wheel: `version`, `flags`, and for vLLM `connectors`."""
    read: dict[str, Any] = json.loads((Path(__file__).parent / "tables" / f"{engine}.json").read_text())
    return read


def text(value: Any) -> str:
    """One value as one word: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
