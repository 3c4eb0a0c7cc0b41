"""What is wrong with a file, and where: one line per complaint, in the form that editors jump to."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Iterable, Union

from disagg_launch.errors import BadInput

Path = tuple[Union[str, int], ...]
ERROR, WARNING = "error", "warning"
LONGEST_LIST = 12


@dataclass(frozen=True, order=True)
class Complaint:
    """One thing that is wrong. `line` and `column` count from 1; `key` is the dotted key path; `number` is the lint rule, if it is one.

    `given`: the option that it is about, in place of the file; `line` and `column` are 0 then.
    """

    file: str
    line: int
    column: int
    key: str
    text: str
    severity: str = ERROR
    number: str = ""
    given: str = ""

    def __str__(self) -> str:
        mark = f" [{self.number}]" if self.number else ""
        grade = "" if self.severity == ERROR else f"{self.severity}: "
        subject = f"{self.key}: " if self.key else ""
        return f"{self.given or f'{self.file}:{self.line}:{self.column}'}: {grade}{subject}{self.text}{mark}"


class BadTopology(BadInput):
    """A file that cannot be used; `complaints` are what the message says, errors and warnings in the order of the file."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(sorted(set(complaints)))
        errors = sum(one.severity == ERROR for one in self.complaints)
        head = f"{self.complaints[0].file} cannot be used: {errors} error{'' if errors == 1 else 's'}"
        super().__init__("\n".join([head, *map(str, self.complaints)]))


def dotted(path: Path) -> str:
    """The key path as it is written in messages: context_servers.urls[0]."""
    out = ""
    for part in path:
        word = part if isinstance(part, str) and part.isprintable() else repr(part)
        out += f"[{part}]" if isinstance(part, int) else f".{word}" if out else word
    return out


def printable(text: str) -> str:
    """The text in one line, whatever it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def found(value: Any) -> str:
    """A value and its kind, short enough for a message."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, (dict, list, tuple)):
        return f"a {'map' if isinstance(value, dict) else 'list'} of {len(value)}"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    shown = repr(value) if not isinstance(value, bool) else str(value).lower()
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return f"{shown} ({kinds.get(type(value), type(value).__name__)})"


def near(word: object, words: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `words` that was probably meant, or ""."""
    close = difflib.get_close_matches(str(word)[:100], list(words), n=1, cutoff=cutoff)
    return close[0] if close else ""


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """' (did you mean X?)', or "" if nothing is near."""
    meant = near(word, words)
    return f" (did you mean {meant}?)" if meant else ""


def listed(words: Iterable[str]) -> str:
    """The words with commas; a long list is cut and says so."""
    every = list(words)
    rest = len(every) - LONGEST_LIST
    return ", ".join(every[:LONGEST_LIST]) + (f" and {rest} more" if rest > 0 else "")
