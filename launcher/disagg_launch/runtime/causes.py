"""The catalogue of likely causes, causes.json: first the particular, then the general, last what only follows on another's failure.

An entry's `where` says what its patterns are looked for in: "log" (what ranks and their launcher say), "end" (how a rank ended, and the
gateway's reason) or "job" (what Slurm says of the job). INFO lines never count, warnings only for entries with `warnings`.
Each has excerpts, lines as programs print them, and says where these come from; tests hold each entry to its own.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import re
from typing import Any, Dict, Iterable, NamedTuple, Optional, Pattern, Tuple

from disagg_launch.runtime.levels import DEBUG, INFO, WARNING, level_of

LOG, END, JOB = PLACES = ("log", "end", "job")


CAPTURED = "captured: "


class Excerpt(NamedTuple):
    """Lines, or parts of long ones, as a program prints them.

    `source`: "captured: " and what was done here to make it say so, the address of a public thread (names and numbers are then not those of
    its writer), or that of the code that has the words.
    """

    source: str
    lines: Tuple[str, ...]


class Cause(NamedTuple):
    """What some words mean, and one thing to do about it. `consequence`: it tells that somebody else has failed before."""

    number: str
    name: str
    cause: str
    remedy: str
    said_by: str
    excerpts: Tuple[Excerpt, ...]
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
    return Cause(**{**lists, "excerpts": tuple(Excerpt(one["source"], tuple(one["lines"])) for one in raw["excerpts"])})


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


_ABOUT = """\
# Likely causes

Written by `disagg-launch explain --table`; a test holds this file to the catalogue.

When a deployment fails, its logs and Slurm's words are looked through for these; of several that fit, the first is named.
`disagg-launch explain RUN` says what was found. What each looks like was captured when we made it happen, or is from a public thread
(names and numbers were changed there) or from the program's source. The captured logs lie whole in `tests/unit/runtime/captured/`, and
the verdict on each is held to the cause that it should name."""


def table() -> str:
    """docs/causes.md: every entry, from the catalogue itself."""
    lines = [_ABOUT, "", "| cause | what it is | what to do | said by | what it looks like |", "|---|---|---|---|---|"]
    for one in catalogue():
        said = "<br>".join(_shown(excerpt) for excerpt in one.excerpts)
        lines.append(f"| {one.number} {one.name} | {one.cause} | {one.remedy} | {one.said_by} | {said} |")
    return "\n".join(lines) + "\n"


def _shown(excerpt: Excerpt) -> str:
    """Some lines as code in a cell of a table, and where they come from."""
    said = "<br>".join(f"`` {text} ``" if "`" in text else f"`{text}`" for text in excerpt.lines)
    kind = "thread" if re.search(r"/(?:issues|pull)/", excerpt.source) else "source"
    source = excerpt.source if excerpt.source.startswith(CAPTURED) else f"[{kind}]({excerpt.source})"
    return f"{said}<br>({source})".replace("|", "\\|")


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
