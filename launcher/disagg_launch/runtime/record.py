"""What the gateway knows of one instance: filled by reports, probes, output and exits, read by the judge and by `status`."""

from __future__ import annotations

import collections
import datetime
import os
import re
from typing import IO, Any, Deque, Dict, List, Optional, Tuple, Union

from disagg_launch.errors import WorkerDied
from disagg_launch.plan import Instance, Plan
from disagg_launch.runtime.probe import Seen
from disagg_launch.runtime.readiness import Observation, stage_of

TAIL_LINES = 40
SHOWN_LINES = 12
# the header of a life in a log: what follows belongs to this start
HEADER = "# {name} plan {digest} start {start} at {time}"


class Record:
    """One instance, or the router, over all its starts. Plain data: whoever learns something writes it here."""

    def __init__(self, name: str, host: str, port: int, log: str, ranks: Tuple[int, ...] = (), role: str = "") -> None:
        self.name, self.host, self.port, self.role = name, host, port, role
        self.ranks = ranks
        self.log_path = log
        self.log: Optional[IO[str]] = None
        self.starts = 0
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
        self.tail: Deque[str] = collections.deque(maxlen=TAIL_LINES)

    def begin(self, run: str, digest: str) -> None:
        """A life begins: open the log and write its header line."""
        self.renew()
        self.started = True
        self.starts += 1
        if self.log is None:
            self.log = open(os.path.join(run, self.log_path), "a", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
        self.log.write(HEADER.format(name=self.name, digest=digest, start=self.starts, time=timestamp()) + "\n")

    def end(self, why: str, now_s: float, code: int = WorkerDied.exit_code, rank: Optional[int] = None, how: str = "") -> None:
        """This life is over; the first word about its end stays. `rank` (global) went first, `how` as in "exit code 3"."""
        if not self.ended:
            self.ended, self.ended_s, self.code, self.ended_rank, self.ended_how = why, now_s, code, rank, how

    def hear(self, rank: Union[int, str], text: str) -> None:
        """One line that rank (of the instance; "-" for its launcher) said."""
        self.tail.append(text)
        if self.log is not None:
            self.log.write(f"[{rank}] {timestamp()} {text}\n")

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()
            self.log = None

    @property
    def missing(self) -> Tuple[int, ...]:
        """Ranks that have not reported in this life."""
        return tuple(r for r in self.ranks if r not in self.reports)

    @property
    def stage(self) -> str:
        """The furthest stage of this life."""
        seen = self.seen
        return stage_of(self.started, not self.missing, seen is not None and seen.listening, seen is not None and seen.healthy)

    def observed(self) -> Observation:
        """What the judge is told."""
        seen = self.seen
        detail = seen.detail if seen is not None and not seen.healthy else ""
        missing = self.missing if self.started else ()
        return Observation(self.name, self.stage, missing, detail, "".join(self.last_lines(1)), self.ended, self.ended_s, self.code)

    def last_lines(self, count: int = SHOWN_LINES) -> List[str]:
        """Its last lines that say something, oldest first."""
        return [line for line in self.tail if line.strip()][-count:]

    def as_dict(self) -> Dict[str, Any]:
        """Its part of status.json."""
        seen = self.observed()
        return {
            "name": self.name,
            "role": self.role,
            "url": f"http://{self.host}:{self.port}",
            "stage": seen.stage,
            "detail": seen.detail,
            "last_line": seen.last_line,
            "ended": self.ended,
            "restarts": max(0, self.starts - 1),
            "log": self.log_path,
            "ranks": [
                {"rank": r, **{k: v for k, v in self.reports.get(r, {}).items() if k in ("host", "pid", "gpus")}} for r in self.ranks
            ],
        }


def of_instance(plan: Plan, instance: Instance, address: str) -> Record:
    """A fresh record of a planned instance."""
    ranks = tuple(r.rank for r in plan.ranks_of(instance.name))
    return Record(instance.name, address, instance.port, f"logs/{instance.name}.log", ranks, instance.role)


def timestamp() -> str:
    """Now, UTC, in milliseconds, as logs write it."""
    return re.sub(r"\d{3}\+00:00$", "Z", datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds"))
