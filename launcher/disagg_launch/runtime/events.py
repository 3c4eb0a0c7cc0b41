"""state/events.jsonl: what happened in a run, one JSON object a line, appended in the order in which the gateway learned of it.

Always there: `at` (unix seconds), `t` (seconds since the gateway began), `event`, `instance` (a name, "router", or ""), `text`.

    begun       digest, job, instances and ranks (counts)
    submitted, allocated    job: Slurm's times, told once they are known: out of order, with a negative t; until (its time limit)
    rank        rank, ranks, host, pid, gpus: a task has reported
    stage       stage, life (1 is the first start); rank when it is one rank's; while loading phase and percent (tens, or null)
    ended       life, code (the exit status it deserves); rank, host, pid, gpus, how ("exit code 3") where one rank went first
    restart     life (the coming one), pause_s
    router      stage "open"
    proof       ok, context, generation (the pair)
    suspect     ok (false: it does not answer, true: it answers again), life
    change      what `scale` did, in text
    autoscale   what the policy wished and what came of it, in text
    verdict     state, code, instance (the first to blame)
    stopped     state

Ranks are global numbers. A stage that was reached and left between two looks (10 ms) is not told.
"""

from __future__ import annotations

import collections
import json
import os
import time
from typing import Any, Dict, Iterable, Optional, Tuple

from disagg_launch.runtime.readiness import far
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.scribe import FILES


class Events:
    """The log of one gateway's life."""

    def __init__(self, run: str) -> None:
        self._path = os.path.join(run, "state", "events.jsonl")
        self.began_at = time.time()
        self._clock_s = time.monotonic()
        self.counts: Dict[Tuple[str, str], int] = collections.Counter()
        """How often what was told: by event, and by its `ok`, its `state` or else its instance."""
        self._ended: Dict[str, int] = {}

    def tell(self, event: str, text: str = "", instance: str = "", at_s: Optional[float] = None, **more: Any) -> float:
        """Append one line; its `t`. `at_s` for what happened before it was known."""
        t_s = time.monotonic() - self._clock_s if at_s is None else at_s - self.began_at
        told = {"at": round(self.began_at + t_s, 4), "t": round(t_s, 4), "event": event, "instance": instance, "text": text, **more}
        self.counts[event, str(more.get("ok", more.get("state", instance)))] += 1
        FILES.append(self._path, json.dumps(told, separators=(",", ":")) + "\n", 0o600)
        return t_s

    def follow(self, records: Iterable[Record]) -> None:
        """Tell what has changed in the records since the last call: stages and ends."""
        for one in records:
            self._stages(one)
            if one.ended and self._ended.get(one.name) != one.starts:
                self._ended[one.name] = one.starts
                self.tell("ended", one.ended, one.name, life=one.starts, code=one.code, **_blamed(one))

    def _stages(self, one: Record) -> None:
        for rank, step in one.look() if one.started else ():
            more: Dict[str, Any] = {"phase": step.phase, "percent": step.percent} if step.phase else {}
            if rank is not None:
                more["rank"] = rank
            self.tell("stage", far(*step[:3]), one.name, stage=step.stage, life=one.starts, **more)


def _blamed(one: Record) -> Dict[str, Any]:
    """The rank that went first and where it ran."""
    if one.ended_rank is None:
        return {}
    return {"rank": one.ended_rank, "how": one.ended_how, **one.reports.get(one.ended_rank, {})}
