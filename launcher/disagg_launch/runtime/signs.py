"""The signs that an instance failed, and the first of them over all instances: by time, so that the first is found and not the loudest.

All times are arrivals at the gateway, on its one clock (see `logbook`). A line that only follows on another's failure ("connection reset by
peer") counts only where nobody shows anything else, so that a first error whose line was held back in a buffer is not missed.
"""

from __future__ import annotations

import os
import re
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

from disagg_launch.runtime import causes, sieve
from disagg_launch.runtime.causes import END, Cause
from disagg_launch.runtime.chronicle import End, Story, stamp
from disagg_launch.runtime.logbook import Line
from disagg_launch.runtime.readiness import UP
from disagg_launch.runtime.sieve import LATER, Telling

LOOK_BACK_S = 660.0
"""An error may show so long before anybody ends: NCCL's ranks wait 600 s for one that has failed."""
BURST_S = 15.0
"""An error that the catalogue does not know counts only when its instance ended so soon after it: engines go on after many."""
SETTLE_S = 1.0
"""Lines that come so soon after an end belong to it: a launcher tells of it, and pipes are emptied."""
ALL_BYTES, LEAST_BYTES = 512 << 20, 1 << 20
"""How much of the logs is read, all together and at least of each."""
BUDGET_S = 4.0
"""How long that may take; then the logs of those that ended last stay unread, and the verdict says so."""
SHOWN_LINES = 8
LAUNCHER = "-"
FOLLOWS = re.compile(r"step \S+ ended with (\S+)$")
_DIGITS = dict.fromkeys(map(ord, "0123456789"))
ABORTS = re.compile(r"SIGABRT|exit code 134|: Aborted")


class Sign(NamedTuple):
    """What showed first in one instance. `rank` is the instance rank that said it ("" if its end is all there is)."""

    instance: str
    stamp: str
    rank: str
    text: str
    consequence: bool


class Evidence(NamedTuple):
    """The lines of one instance that mean something, each with what the catalogue says of it, in the order of their arrival."""

    instance: str
    end: Optional[End]
    lines: Tuple[Telling, ...]

    def first_sign(self) -> Optional[Sign]:
        """None when nothing shows that it failed."""
        shown = self._shown()
        if shown:
            return Sign(self.instance, min(shown.stamp, stamp(self.end.at) if self.end else LATER), shown.rank, shown.text, False)
        if self.end is None:
            return None
        ended, cause = stamp(self.end.at), self._end_cause()
        if self.lines and not (cause and not cause.consequence):
            one = self.lines[0][0]
            return Sign(self.instance, min(one.stamp, ended), one.rank, one.text, True)
        return Sign(self.instance, ended, "", self.end.text, bool(cause and cause.consequence))

    def _shown(self) -> Optional[Line]:
        """The first line that tells of a failure of its own.

        Engines go on after many an error, so what was said just before the end goes before what is older; unless that begins with a word
        about somebody who was waited for in vain.
        """
        since = stamp(self.end.at - BURST_S) if self.end else LATER
        near = [(one, cause) for one, cause in self.lines if one.stamp >= since]
        own = [one for one, cause in near if not (cause and cause.consequence)]
        if own and near[0][0] is own[0]:
            return own[0]
        older = [one for one, cause in self.lines if cause and not cause.consequence]
        return next(iter([*older, *own]), None)

    def _end_cause(self) -> Optional[Cause]:
        """What its end means by itself. An abort means nothing beside words that do: so a watchdog ends the process that waited in vain."""
        if self.end is None or (ABORTS.search(self.end.text) and any(cause for _, cause in self.lines)):
            return None
        return causes.fits(self.end.text, END)

    def cause(self, sign: Sign) -> Optional[Cause]:
        """The cause to name: of what the blamed rank said from its first sign on, else of any rank of its instance and of its end."""
        since = [(one, cause) for one, cause in self.lines if one.stamp >= sign.stamp]
        own = causes.first(cause for one, cause in since if one.rank == sign.rank)
        known = own if own and not own.consequence else None
        return known or causes.first([*(cause for _, cause in since), self._end_cause()])

    def first_errors(self, sign: Sign) -> List[str]:
        """The first error lines of the blamed rank, without the frames of tracebacks; of those that differ in numbers only, the first."""
        said: Dict[str, str] = {}
        for one, _ in self.lines:
            if one.stamp >= sign.stamp and one.rank in (sign.rank, LAUNCHER):
                said.setdefault(one.text.translate(_DIGITS), one.text)
        return list(said.values())[:SHOWN_LINES]


def gather(run: str, story: Story, until: str) -> Tuple[List[Evidence], List[str]]:
    """The evidence of every instance that failed or did not become healthy, those that ended first first; and whose logs stayed unread."""
    suspects = [*story.dead, *(name for name, stage in story.stages.items() if name not in story.dead and stage not in UP)]
    limit_bytes = max(LEAST_BYTES, ALL_BYTES // max(1, len(suspects)))
    found, unread, began_s = [], [], time.monotonic()
    for name in suspects:
        if time.monotonic() - began_s > BUDGET_S:
            unread.append(name)
        else:
            found.append(of_instance(run, name, story.dead.get(name), _since(story), until, limit_bytes))
    return with_launchers_words(found), unread


def of_instance(run: str, name: str, end: Optional[End], since: str, until: str, limit_bytes: int = ALL_BYTES) -> Evidence:
    """The evidence in the log of one instance's life that `end` ended, or of its last."""
    path = os.path.join(run, "logs", f"{name}.log")
    if end is None:
        return Evidence(name, end, tuple(sieve.telling(path, since, until, limit_bytes)))
    last = min(until, stamp(end.at + SETTLE_S))
    return Evidence(name, end, tuple(sieve.telling(path, since, last, limit_bytes, stamp(end.at))))


def _since(story: Story) -> str:
    """Nobody died: then all of it counts. Otherwise what is not older than anything that waits for a failed peer."""
    return stamp(min(end.at for end in story.dead.values()) - LOOK_BACK_S) if story.dead else stamp(story.began_at)


def with_launchers_words(found: List[Evidence]) -> List[Evidence]:
    """The launcher of a step of several instances speaks in the log of the first; its words belong to the one that ended the step."""
    moved: Dict[str, List[Telling]] = {}
    out = []
    for one in found:
        follows = FOLLOWS.match(one.end.text) if one.end else None
        if follows:
            moved.setdefault(follows[1], []).extend(pair for pair in one.lines if pair[0].rank == LAUNCHER)
            one = one._replace(lines=tuple(pair for pair in one.lines if pair[0].rank != LAUNCHER))
        out.append(one)
    return [one._replace(lines=tuple(sorted((*one.lines, *moved.get(one.instance, ())), key=lambda pair: pair[0].stamp))) for one in out]


def first_sign(evidence: Iterable[Evidence], preferred: str = "") -> Optional[Sign]:
    """The first sign of all; of several at the same moment that of instance `preferred`. None when there is none at all."""
    signs: Dict[str, Sign] = {}
    for one in evidence:
        sign = one.first_sign()
        if sign:
            signs[one.instance] = sign
    return min(signs.values(), key=lambda one: (one.consequence, one.stamp, one.instance != preferred), default=None)
