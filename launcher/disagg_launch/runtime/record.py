"""What the gateway knows of one instance: filled by reports, probes, output and exits, read by the judge and by `status`."""

from __future__ import annotations

import collections
import datetime
import os
import re
import time
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from disagg_launch.errors import WorkerDied
from disagg_launch.plan import Instance, Plan
from disagg_launch.runtime import logbook, phases, readiness
from disagg_launch.runtime.phases import Phase
from disagg_launch.runtime.probe import Seen
from disagg_launch.runtime.progress import Progress
from disagg_launch.runtime.readiness import Observation, stage_of
from disagg_launch.runtime.scribe import FILES

if TYPE_CHECKING:
    from disagg_launch.runtime.binding import Binding

TAIL_LINES = 40
SHOWN_LINES = 12
LONGEST_SHOWN = 1000
"""Engines print their whole configuration in a line; the log has all of it."""
# the header of a life in a log: what follows belongs to this start
HEADER = "# {name} plan {digest} start {start} at {time}"


class Step(NamedTuple):
    """How far an instance, or one of its ranks, is: stage, phase of loading and percentage; `since` in unix seconds."""

    stage: str
    phase: str = ""
    percent: Optional[int] = None
    since: float = 0.0


class Record:
    """One instance, or the router, over all its starts. Plain data: whoever learns something writes it here."""

    def __init__(self, name: str, host: str, port: int, log: str, ranks: Tuple[int, ...] = (), role: str = "") -> None:
        self.name, self.host, self.port, self.role = name, host, port, role
        self.scheme = "http"
        self.ranks = ranks
        self.log_path = log
        self._log = ""
        self.starts = self.wished = 0
        """How often it was started, and how many of those starts say nothing of how it does."""
        self.begun_s = 0.0
        self.renew()

    def renew(self) -> None:
        """Forget the last life: the instance is about to be started (again)."""
        self.started = False
        self.reports: Dict[int, Dict[str, Any]] = {}
        self.seen: Optional[Seen] = None
        self.ended = ""
        self.ended_s = 0.0
        self.ended_rank: Optional[int] = None
        self.ended_how = ""
        self.code = WorkerDied.exit_code
        self.refusal, self.refusal_code = "", 0
        self.progress = Progress()
        self.proved = self.routed = self.far = self.suspect = False
        self.steps: Dict[Optional[int], Step] = {}
        self.tail: Deque[str] = collections.deque(maxlen=TAIL_LINES)

    def begin(self, run: str, digest: str) -> None:
        """A life begins: its header line goes into the log."""
        self.renew()
        self.started = True
        self.starts += 1
        self.begun_s = time.monotonic()
        self._log = os.path.join(run, self.log_path)
        self._write(HEADER.format(name=self.name, digest=digest, start=self.starts, time=timestamp()))

    def end(self, why: str, now_s: float, code: int = WorkerDied.exit_code, rank: Optional[int] = None, how: str = "") -> None:
        """This life is over; the first word about its end stays. `rank` (global) went first, `how` as in "exit code 3"."""
        if not self.ended:
            self.ended, self.ended_s, self.code, self.ended_rank, self.ended_how = why, now_s, code, rank, how

    def forgive(self, lives: int = 0) -> None:
        """Count restarts anew; the last `lives` count already."""
        self.wished = self.starts - lives

    @property
    def tries(self) -> int:
        """How often it was started, as the policy counts."""
        return self.starts - self.wished

    def report(self, ranks: Sequence[int], where: Dict[str, Any], now_s: float, far: bool = False) -> None:
        """A task has taken the role of these ranks (global numbers). `far`: a companion looks after it, not we."""
        self.far = far
        self.reports.update(dict.fromkeys(ranks, where))
        self.progress.moved(now_s)

    def hear(self, rank: Union[int, str], text: str, now_s: float) -> None:
        """One line that rank (of the instance; "-" for its launcher) said."""
        text = text.lstrip("\r")
        self.tail.append(text)
        if not self.is_up:
            self.progress.said(self.ranks[rank] if isinstance(rank, int) and self.ranks else "-", text, now_s)
        self._write(f"[{rank}] {timestamp()} {text}")

    def _write(self, line: str) -> None:
        if self._log:
            FILES.append(self._log, line + "\n")

    @property
    def missing(self) -> Tuple[int, ...]:
        """Ranks that have not reported in this life."""
        if len(self.reports) == len(self.ranks):  # asked for hundreds of instances at each look
            return ()
        return tuple(r for r in self.ranks if r not in self.reports)

    @property
    def stage(self) -> str:
        """The furthest stage of this life."""
        seen = self.seen
        found = stage_of(self.started, not self.missing, seen is not None and seen.listening, self.is_up)
        if found == readiness.ROLE_TAKEN:
            return max((self._own(rank) for rank in self.ranks), key=readiness.STAGES.index, default=readiness.STARTED)
        return found if found != readiness.HEALTHY else readiness.ROUTED if self.routed else readiness.PROVED if self.proved else found

    @property
    def is_up(self) -> bool:
        """Whether its health page said 200 when it was last asked."""
        return self.seen is not None and self.seen.healthy

    def _own(self, rank: int) -> str:
        """How far one rank is by its own words; ranks of one task share them."""
        if rank not in self.reports:
            return readiness.STARTED if self.started else readiness.SCHEDULED
        speaker = self.speaker(rank)
        phase = self.progress.phases.get(speaker)
        if phase is not None and phase.name != phases.STARTING:
            return readiness.LOADING
        return readiness.STARTING if phase is not None or speaker in self.progress.heard else readiness.ROLE_TAKEN

    def speaker(self, rank: int) -> int:
        """The first rank of the task that one which has reported belongs to: what the task says and uses counts as that one's."""
        return next(r for r in self.ranks if self.reports.get(r) is self.reports[rank])

    def look(self) -> Iterator[Tuple[Optional[int], Step]]:
        """What has changed since the last look: (None, the instance's step) or (a rank, its step). A percentage counts in tens."""
        stage, phase = self.stage, self.progress.phase
        now: Dict[Optional[int], Step] = {None: _step(stage, phase)}
        if len(self.ranks) > 1:
            late = stage not in (readiness.LISTENING, *readiness.UP)
            now.update((r, _step(self._own(r) if late else stage, self.progress.phases.get(r))) for r in self.ranks)
        for who, step in now.items():
            before = self.steps.get(who)
            same = before is not None and before.stage == step.stage
            self.steps[who] = step._replace(since=before.since if before is not None and same else time.time())
            if before is None or not same or before.phase != step.phase or _tens(before) != _tens(step):
                yield who, self.steps[who]

    def observed(self, now_s: Optional[float] = None) -> Observation:
        """What the judge is told."""
        seen, progress, phase = self.seen, self.progress, self.progress.phase
        counts = now_s is not None and progress.began
        return Observation(
            self.name,
            self.stage,
            missing=self.missing if self.started else (),
            detail=seen.detail if seen is not None and not seen.healthy else "",
            last_line="".join(self.last_lines(1)),
            phase=phase.name if phase else "",
            percent=phase.percent if phase else None,
            still_s=now_s - progress.moved_s if now_s is not None and counts else None,
            idle_s=now_s - max(progress.busy_s, progress.moved_s) if now_s is not None and counts else 0.0,
            ended=self.ended,
            ended_s=self.ended_s,
            code=self.code,
        )

    def last_lines(self, count: int = SHOWN_LINES) -> List[str]:
        """Its last lines that say something, oldest first: as far as one can be read, and without what would move a terminal's cursor."""
        return [logbook.printable(line[:LONGEST_SHOWN]) for line in self.tail if line.strip()][-count:]

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def at(self, place: str) -> str:
        """The URL of "/path", or of ":port/path" on another port of its host, which speaks plain HTTP."""
        return f"http://{self.host}{place}" if place.startswith(":") else self.url + place

    def as_dict(self) -> Dict[str, Any]:
        """Its part of status.json."""
        seen = self.observed()
        return {
            "name": self.name,
            "role": self.role,
            "url": self.url,
            **_shown(self.steps.get(None, Step(seen.stage))),
            "detail": seen.detail,
            "last_line": seen.last_line,
            "ended": self.ended,
            "suspect": self.suspect,
            "restarts": max(0, self.tries - 1),
            "log": self.log_path,
            "ranks": [self._rank(r) for r in self.ranks],
        }

    def _rank(self, rank: int) -> Dict[str, Any]:
        step = self.steps.get(rank) or self.steps.get(None, Step(self.stage))
        return {"rank": rank, **self.reports.get(rank, {}), **_shown(step)}


def _step(stage: str, phase: Optional[Phase]) -> Step:
    return Step(stage, phase.name, phase.percent) if phase is not None and stage == readiness.LOADING else Step(stage)


def _tens(one: Step) -> int:
    return -1 if one.percent is None else one.percent // 10


def _shown(one: Step) -> Dict[str, Any]:
    """A step in status.json: stage and since, and phase and percent while it loads."""
    told = one._asdict()
    return {**told, "since": round(one.since, 3)} if one.phase else {"stage": one.stage, "since": round(one.since, 3)}


def of_instance(plan: Plan, instance: Instance, binding: Binding) -> Record:
    """A fresh record of a planned instance."""
    ranks = tuple(r.rank for r in plan.ranks_of(instance.name))
    address, port = binding.addresses[instance.nodes[0]], instance.port + binding.side_up
    return Record(instance.name, address, port, f"logs/{instance.name}.log", ranks, instance.role)


def timestamp() -> str:
    """Now, UTC, in milliseconds, as logs write it."""
    return re.sub(r"\d{3}\+00:00$", "Z", datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"))
