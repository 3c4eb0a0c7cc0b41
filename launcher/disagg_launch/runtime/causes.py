"""The catalogue of likely causes, causes.json: first the particular, then the general, last what only follows on another's failure.

An entry's `where` says what its patterns are looked for in: "log" (what ranks and their launcher say), "end" (how a rank ended, and the
gateway's reason) or "job" (what Slurm says of the job). INFO lines never count, warnings only for entries with `warnings`.
`excerpt` are lines as the program prints them (names and numbers are not those of a real user); a test holds each entry to its own.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from typing import Any, Dict, Iterable, NamedTuple, Optional, Pattern, Tuple

from disagg_launch.runtime.levels import DEBUG, INFO, WARNING, level_of

LOG, END, JOB = PLACES = ("log", "end", "job")


class Cause(NamedTuple):
    """What some words mean, and one thing to do about it. `consequence`: it tells that somebody else has failed before."""

    number: str
    name: str
    cause: str
    remedy: str
    said_by: str
    source: str
    excerpt: Tuple[str, ...]
    where: Tuple[str, ...]
    patterns: Tuple[str, ...]
    warnings: bool = False
    consequence: bool = False

    def in_words(self) -> Dict[str, str]:
        """What a verdict says of it."""
        return {"cause_number": self.number, "cause_name": self.name, "cause": self.cause, "remedy": self.remedy}


@functools.cache
def catalogue() -> Tuple[Cause, ...]:
    """Every entry; where several fit, the first counts."""
    text = pkgutil.get_data("disagg_launch.runtime", "causes.json")
    assert text is not None
    return tuple(_cause(raw) for raw in json.loads(text))


def _cause(raw: Dict[str, Any]) -> Cause:
    lists: Dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return Cause(**lists)


def fits(text: str, where: str = LOG) -> Optional[Cause]:
    """The first cause that fits one line or sentence; None when there is none in the catalogue."""
    found = next((one for one in _compiled(where) if one.needle in text and one.pattern.search(text)), None)
    if found is None or where != LOG:
        return found and found.cause
    level = level_of(text)
    if level == WARNING:
        return next((one.cause for one in _compiled(where) if one.cause.warnings and one.pattern.search(text)), None)
    return None if level in (INFO, DEBUG) else found.cause


def explain(lines: Iterable[str], end: str = "") -> Optional[Cause]:
    """The first cause that fits one of the lines of a log or how it ended; what only follows on another's failure comes last."""
    found = [*(fits(text) for text in lines), fits(end, END) if end else None]
    return first(found)


def table() -> str:
    """docs/causes.md: every entry, from the catalogue itself."""
    lines = ["# Likely causes", "", "Written by `disagg-launch explain --table`; a test holds this file to the catalogue.", ""]
    lines += ["When a deployment fails, its logs and Slurm's words are looked through for these; of several that fit, the first is named."]
    lines += ["`disagg-launch explain RUN` says what was found. Lines are as programs print them, with other names and numbers.", ""]
    lines += ["| cause | what it is | what to do | said by | what it looks like | known from |", "|---|---|---|---|---|---|"]
    for one in catalogue():
        said = "<br>".join(f"`{text.strip()}`" for text in one.excerpt).replace("|", "\\|")
        source = f"[thread]({one.source})" if one.source.startswith("http") else one.source
        lines.append(f"| {one.number} {one.name} | {one.cause} | {one.remedy} | {one.said_by} | {said} | {source} |".replace("`` ", "` "))
    return "\n".join(lines) + "\n"


def first(found: Iterable[Optional[Cause]]) -> Optional[Cause]:
    """Of several causes the one to name."""
    order = {cause.number: place for place, cause in enumerate(catalogue())}
    return min((cause for cause in found if cause), key=lambda cause: (cause.consequence, order[cause.number]), default=None)


class _Compiled(NamedTuple):
    needle: str
    pattern: Pattern[str]
    cause: Cause


@functools.cache
def _compiled(where: str) -> Tuple[_Compiled, ...]:
    return tuple(_Compiled(needle(p), re.compile(p), one) for one in catalogue() if where in one.where for p in one.patterns)


_TOKEN = re.compile(
    r"(?P<varies>\\[A-Za-z][?*+]?|\((?:[^()]|\([^()]*\))*\)[?*+]?|\[(?:\\.|[^\]])*\](?:[?*+]|\{[\d,]*\})?|(?:\\\W|[^\\])[?*+]|[.^$])"
    r"|\\(?P<escaped>\W)|(?P<plain>.)"
)


def needle(pattern: str) -> str:
    """The longest words that every text has that a pattern fits, "" if that is not plain: `in` is a hundred times faster than a search."""
    said = ""
    for token in _TOKEN.finditer(pattern):
        if token["plain"] == "|":
            return ""
        said += "\0" if token["varies"] else token["escaped"] or token["plain"]
    return max(said.split("\0"), key=len)
