"""A section's engine keys as the flags of an engine's command line. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from disagg_launch.spec.complaint import did_you_mean

# How vLLM negates a flag; which of them `words` uses is the engine module's choice.
NEGATIVES = (("--", "--no-"), ("--enable-", "--disable-"), ("--disable-", "--enable-"))


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
    """The keys that are flags of an engine, from the table read from its wheel (tables/read_flags.py), negated ones too."""
    return frozenset(name.lstrip("-").replace("-", "_") for name in _names(engine))


def known_as(engine: str) -> str:
    """The engine's name with the release that its table was read from, as in messages."""
    version = table(engine).get("version")
    return f"{engine} (as of {version})" if version else engine


def table(engine: str) -> dict[str, Any]:
    """What is known of an engine's command line: its `flags`; read from a wheel also its `version` and vLLM's `connectors`.

    Of TensorRT-LLM also `keys`, those of its worker YAML: the classes of LLM arguments in its sources.
    """
    read: dict[str, Any] = json.loads((Path(__file__).parent / "tables" / f"{engine}.json").read_text())
    return read


def _names(engine: str) -> set[str]:
    """--flag of all flags, and --no-flag of those that can be negated."""
    found = table(engine)["flags"]
    toggles = [name for name, flag in found.items() if flag.get("toggle")]
    return {*found, *(name.replace(old, new, 1) for name in toggles for old, new in NEGATIVES if name.startswith(old))}


def unknown(engine: str, args: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """(index, flag, what was probably meant) of each word that looks like a flag and is none of the engine's."""
    names = _names(engine)
    for i, word in enumerate(args):
        # vLLM's and SGLang's parsers take either dash, TensorRT-LLM's does not; --name.key is part of a JSON value
        name = word.split("=")[0].split(".")[0]
        if word.startswith("--") and not {name, name.replace("_", "-")} & names:
            yield i, name, did_you_mean(name, names)


def text(value: Any) -> str:
    """One value as one word: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
