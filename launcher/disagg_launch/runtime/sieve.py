"""The lines of a log that tell of a failure, found in megabytes of lines that do not.

Logs repeat themselves: lines that differ in numbers only mean the same. So each kind of line is looked at once, and of a kind that comes
again and again only the first and the last are kept.
"""

from __future__ import annotations

import collections
import contextlib
from typing import Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

from disagg_launch.runtime import causes, logbook
from disagg_launch.runtime.causes import Cause
from disagg_launch.runtime.levels import ERROR, continues, level_of
from disagg_launch.runtime.logbook import Line

DIGITS = b"0123456789"
KEPT = 100
"""Of each kind of line so many are kept from the beginning, and so many from the end."""
MOST_KINDS = 50_000
LATER = "~"
"""Behind every stamp."""

Telling = Tuple[Line, Optional[Cause]]


class Kind(NamedTuple):
    """What lines that differ only in numbers have in common."""

    tells: bool = False
    header: bool = False
    cause: Optional[Cause] = None


_BORING = Kind()
_kinds: Dict[bytes, Kind] = {}


def telling(path: str, since: str, until: str, limit_bytes: int, ended: str = LATER) -> List[Telling]:
    """The lines of a log that are errors or have a cause, each with its cause, without frames of tracebacks.

    They arrived from `since` to `until` (stamps, both included), in the last life that began before `ended`; of a longer part the last
    `limit_bytes` count. [] when there is no such log.
    """
    first: Dict[Kind, List[Tuple[int, bytes]]] = {}
    last: Dict[Kind, Deque[Tuple[int, bytes]]] = {}
    for number, raw in enumerate(_part(path, since, until, limit_bytes)):
        kind = kind_of(raw)
        if kind.header:
            if logbook.line(raw).stamp > ended:
                break
            first.clear()
            last.clear()
        elif kind.tells:
            some = first.setdefault(kind, [])
            if len(some) < KEPT:
                some.append((number, raw))
            else:
                last.setdefault(kind, collections.deque(maxlen=KEPT)).append((number, raw))
    kept = [(number, raw, kind.cause) for found in (first, last) for kind, some in found.items() for number, raw in some]
    return [(logbook.line(raw), cause) for _, raw, cause in sorted(kept, key=lambda one: one[0])]


def kind_of(raw: bytes) -> Kind:
    """What a line of a log means."""
    key = raw.translate(None, DIGITS)
    found = _kinds.get(key)
    if found is None:
        if len(_kinds) >= MOST_KINDS:
            _kinds.clear()
        found = _kinds[key] = _look(raw)
    return found


def _look(raw: bytes) -> Kind:
    one = logbook.line(raw)
    if one.stamp and not one.rank and one.text.startswith(logbook.HEADER):
        return Kind(header=True)
    if continues(one.text):
        return _BORING
    cause = causes.fits(one.text)
    return Kind(True, cause=cause) if cause or level_of(one.text) == ERROR else _BORING


def _part(path: str, since: str, until: str, limit_bytes: int) -> Iterator[bytes]:
    """The lines, without their ends, between two moments."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        end = logbook.offset_at(file, until + LATER)
        begin = logbook.offset_at(file, since)
        if end - begin > limit_bytes:
            begin = end - limit_bytes
            file.seek(begin)
            begin += len(file.readline())
        file.seek(begin)
        left = end - begin
        for raw in file:
            left -= len(raw)
            if left < 0:
                return
            yield raw.rstrip(b"\r\n")
