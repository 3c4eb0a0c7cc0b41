"""The logs of a run folder, merged by the time at which the gateway got each line, and narrowed to what is asked for. They are streamed."""

from __future__ import annotations

import collections
import datetime
import fnmatch
import heapq
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

from disagg_launch.errors import BadInput
from disagg_launch.runtime import chronicle, logbook
from disagg_launch.runtime.levels import LEVELS, continues, level_of

POLL_S = 0.2
LOOKS_PER_S = 2000
"""All files together are not looked at more often than this: they may lie on a shared file system."""
STAMP_BYTES = 4096
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Entry(NamedTuple):
    """One line: when it arrived ("" if unknown), its log, who said it (instance rank, "-", ""), how grave it is ("" if unknown)."""

    stamp: str
    name: str
    rank: str
    level: str
    text: str
    raw: str


@dataclass(frozen=True)
class Wanted:
    """What to show; () and "" mean all. `names` may be patterns (ctx*); `level` and graver; from `since` (a stamp); the `last` lines."""

    names: Sequence[str] = ()
    ranks: Collection[str] = ()
    level: str = ""
    since: str = ""
    last: Optional[int] = None

    def fits(self, one: Entry) -> bool:
        """Whether a line is of the ranks and levels to show."""
        return (not self.ranks or one.rank in self.ranks) and (not self.level or one.level in LEVELS[: LEVELS.index(self.level) + 1])


class Log:
    """One file as it grows. A line that only goes on with the one before it (a traceback's frames) is as grave as that one."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.at = path, path.stem, 0
        self._stamp = ""
        self._levels: dict[str, str] = {}

    def entries(self, judge: bool, rest: bool = False) -> Iterator[Entry]:
        """The lines behind the place where the last call ended; with `rest` also one that is not finished. `judge`: say their levels."""
        with self.path.open("rb") as file:
            file.seek(self.at)
            for raw in file:
                if not raw.endswith(b"\n") and not rest:
                    return
                self.at += len(raw)
                yield self._entry(raw.rstrip(b"\n"), judge)

    def grown(self) -> bool:
        """Whether there is more to read. A file that has become shorter was cut off by a rotation, and is read from its beginning."""
        size = self.path.stat().st_size
        self.at = self.at if size >= self.at else 0
        return size > self.at

    def begin(self, wanted: Wanted, judge: bool) -> list[Entry]:
        """Go to where what is wanted begins. If only the last lines are, give them, and go to the end."""
        with self.path.open("rb") as file:
            floor = logbook.offset_at(file, wanted.since) if wanted.since else 0
            self.at = floor
            if wanted.last is None:
                return []
            found: list[Entry] = []
            count, begin = wanted.last, -1
            self.at = logbook.size_of(file)
            while len(found) < wanted.last and begin != floor:
                self.at = begin = max(floor, logbook.offset_of_last(file, count))
                self._stamp = logbook.stamp_before(file, begin)
                found = list(collections.deque((one for one in self.entries(judge) if wanted.fits(one)), maxlen=wanted.last))
                count *= 8
            return found

    def _entry(self, raw: bytes, judge: bool) -> Entry:
        one = logbook.line(raw)
        self._stamp = one.stamp or self._stamp
        level = ""
        if judge:
            level = self._levels.get(one.rank, "") if continues(one.text) else level_of(one.text)
            self._levels[one.rank] = level
        return Entry(self._stamp, self.name, one.rank, level, one.text, raw.decode("utf-8", "replace"))


def merged(run: Path, wanted: Wanted, going_on: Optional[Callable[[], bool]] = None, judge: bool = False) -> Iterator[list[Entry]]:
    """What is wanted of the logs of a run, in the order of time, in lists of some lines each.

    With `going_on` it waits for more, also for logs that are not there yet, as long as that is true. `judge`: say levels though none is
    asked for. BadInput if there is no such log and none to come.
    """
    judge = judge or bool(wanted.level)
    known: dict[Path, Log] = {}
    alive = True
    yield from _batches(_opening(run, wanted, known, judge, bool(going_on)))
    while going_on and alive:
        began_s = time.monotonic()
        alive = going_on()  # asked before looking, so that what was written until then is still shown
        fresh = [log for log in _logs(run, wanted, known) if log.grown()]
        yield from _batches(_sorted((log.entries(judge, not alive) for log in fresh), wanted))
        if alive:
            time.sleep(max(0.0, began_s + max(POLL_S, len(known) / LOOKS_PER_S) - time.monotonic()))


def _opening(run: Path, wanted: Wanted, known: dict[Path, Log], judge: bool, patient: bool) -> Iterator[Entry]:
    """What is there already."""
    logs = _logs(run, wanted, known)
    _check(run, wanted, logs, patient)
    lasts = [log.begin(wanted, judge) for log in logs]
    if wanted.last is None:
        yield from _sorted((log.entries(judge) for log in logs), wanted)
    elif wanted.last:
        yield from sorted((one for last in lasts for one in last), key=lambda one: one.stamp)[-wanted.last :]


def _sorted(found: Iterable[Iterator[Entry]], wanted: Wanted) -> Iterator[Entry]:
    return (one for one in heapq.merge(*found, key=lambda one: one.stamp) if wanted.fits(one))


def _batches(entries: Iterator[Entry], size: int = 500) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for one in entries:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _logs(run: Path, wanted: Wanted, known: dict[Path, Log]) -> list[Log]:
    """Those that are there and wanted, new ones too."""
    for path in sorted((run / "logs").glob("*.log")):
        if path not in known and (not wanted.names or any(fnmatch.fnmatchcase(path.stem, name) for name in wanted.names)):
            known[path] = Log(path)
    return list(known.values())


def _check(run: Path, wanted: Wanted, logs: Sequence[Log], patient: bool) -> None:
    """BadInput if a name fits no log, and cannot come to fit one."""
    there = [path.stem for path in sorted((run / "logs").glob("*.log"))]
    possible = {*there, *(_planned(run) if patient else ())}
    missing = [name for name in wanted.names if not fnmatch.filter(possible, name)]
    if missing or not (logs or patient):
        raise BadInput(f"{run / 'logs'}: no log of {', '.join(missing) or 'anything'}; there are {', '.join(sorted(possible)) or 'none'}")


def _planned(run: Path) -> list[str]:
    """The logs that a run will have. BadInput if it is no run folder."""
    from disagg_launch import plan

    try:
        return ["gateway", "router", *(i.name for i in plan.from_json((run / "plan.json").read_text(encoding="utf-8")).instances)]
    except (OSError, ValueError, KeyError) as wrong:
        raise BadInput(f"{run}: no run folder ({wrong}); name one that `disagg-launch up` or `submit` made") from None


def since(run: Path, text: str) -> str:
    """The stamp that `text` means: 90s, 10m, 2h or 1d before the newest line of the logs, or a date and time (of this machine's zone).

    Counted from the newest line, because this machine's clock may differ from the gateway's, and the run may have ended long ago.
    """
    short = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if short:
        newest = max((_newest(path) for path in (run / "logs").glob("*.log")), default="")
        at_s = chronicle.seconds(newest) if newest else time.time()
        return chronicle.stamp(max(0.0, at_s - float(short[1]) * UNITS[short[2]]))
    try:
        at_s = datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        return chronicle.stamp(max(0.0, at_s))
    except (ValueError, OverflowError):
        raise BadInput(f"--since {text}: neither a duration (90s, 10m, 2h, 1d) nor a date and time (2026-01-31T12:00)") from None


def _newest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - STAMP_BYTES))
        return max((logbook.line(raw).stamp for raw in file.read().split(b"\n")), default="")
