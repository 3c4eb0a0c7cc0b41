"""The lines of a log that tell of a failure, found in megabytes of lines that do not.

Logs repeat themselves: lines that differ in numbers only mean the same. So each wording is looked at once; of lines that mean the same, and
come again and again, only the first and the last are kept, and the first of each wording.
"""

from __future__ import annotations

import collections
import contextlib
from typing import Deque, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from disagg_launch.runtime import causes, logbook
from disagg_launch.runtime.causes import Cause
from disagg_launch.runtime.levels import ERROR, continues, level_of
from disagg_launch.runtime.logbook import Line

DIGITS = b"0123456789"
KEPT = 100
"""Of lines with one cause, or none, so many are kept from the beginning, and so many from the end."""
MOST_WORDINGS = 1000
"""Of so many wordings in a log the first line is kept wherever it stands: a flood of errors must not wash away another."""
MOST_KINDS = 50_000
LATER = "~"
"""Behind every stamp."""

Telling = Tuple[Line, Optional[Cause]]
_Numbered = Tuple[int, bytes, Optional[Cause]]


class Kind(NamedTuple):
    """What lines of one wording mean."""

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
    kept = _Kept()
    for number, raw in enumerate(_part(path, since, until, limit_bytes)):
        kind = kind_of(raw)
        if kind.header:
            if logbook.line(raw).stamp > ended:
                break
            kept = _Kept()
        elif kind.tells:
            kept.add(number, raw, kind.cause)
    return [(logbook.line(raw), cause) for _, raw, cause in kept.lines()]


class _Kept:
    """The lines of one life that are kept, of however many that tell something."""

    def __init__(self) -> None:
        self._first: Dict[str, List[_Numbered]] = collections.defaultdict(list)
        self._last: Dict[str, Deque[_Numbered]] = collections.defaultdict(lambda: collections.deque(maxlen=KEPT))
        self._new: List[_Numbered] = []
        self._wordings: Set[bytes] = set()

    def add(self, number: int, raw: bytes, cause: Optional[Cause]) -> None:
        one, key = (number, raw, cause), cause.number if cause else ""
        if len(self._first[key]) < KEPT:
            self._first[key].append(one)
            self._wordings.add(_wording(raw))
        elif len(self._wordings) < MOST_WORDINGS and _wording(raw) not in self._wordings:
            self._new.append(one)
            self._wordings.add(_wording(raw))
        else:
            self._last[key].append(one)

    def lines(self) -> List[_Numbered]:
        """In the order of the log."""
        groups = [self._new, *self._first.values(), *self._last.values()]
        return sorted((one for group in groups for one in group), key=lambda one: one[0])


def kind_of(raw: bytes) -> Kind:
    """What a line of a log means."""
    key = _wording(raw)
    found = _kinds.get(key)
    if found is None:
        if len(_kinds) >= MOST_KINDS:
            _kinds.clear()
        found = _kinds[key] = _look(raw)
    return found


def _wording(raw: bytes) -> bytes:
    return raw.translate(None, DIGITS)


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
