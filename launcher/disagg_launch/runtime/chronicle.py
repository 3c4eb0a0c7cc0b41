"""What state/events.jsonl tells of the gateway's last life, instance by instance: who ran where, how far each came, how each life ended."""

from __future__ import annotations

import datetime
import json
import os
from typing import Any, Dict, Iterable, List, NamedTuple, Set, Tuple

Event = Dict[str, Any]


class End(NamedTuple):
    """The end of one life of an instance. `at`: unix seconds, the gateway's clock; `place`: rank, host, gpus, how, if they are known."""

    instance: str
    at: float
    life: int
    text: str
    place: Event


class Story:
    """`ends`: of all lives, in the order of time. `dead`: of those instances that have not begun another life since.

    `missing`: those that could not be started again, and have not come back. `stages`: the last of each instance.
    `places`: by (instance, global rank). `verdict`: the event, {} while there is none.
    `until`: when the job's time is over (unix seconds), 0 if there is no limit.
    """

    def __init__(self, events: List[Event]) -> None:
        self.began_at = float(events[0]["at"]) if events else 0.0
        self.last_at = max((float(one["at"]) for one in events), default=0.0)
        self.ends: List[End] = []
        self.dead: Dict[str, End] = {}
        self.missing: Set[str] = set()
        self.stages: Dict[str, str] = {}
        self.places: Dict[Tuple[str, int], Event] = {}
        self.verdict: Event = {}
        self.until = 0.0
        for one in events:
            self._add(one)

    def _add(self, one: Event) -> None:
        name = one.get("instance", "")
        if one["event"] == "ended":
            place: Event = {key: one[key] for key in ("rank", "host", "gpus", "how") if key in one}
            self.dead[name] = End(name, float(one["at"]), one.get("life", 1), one["text"], place)
            self.ends.append(self.dead[name])
        elif one["event"] == "stage" and "rank" not in one:
            self.stages[name] = one["stage"]
            if name in self.dead and one.get("life", 1) > self.dead[name].life:
                del self.dead[name]
        elif one["event"] == "rank":
            self.places.update({(name, rank): {"rank": rank, "host": one["host"], "gpus": one["gpus"]} for rank in one.get("ranks", ())})
        elif one["event"] == "degraded":
            (self.missing.discard if one["ok"] else self.missing.add)(name)
        elif one["event"] == "allocated":
            self.until = float(one.get("until", 0))
        elif one["event"] == "verdict":
            self.verdict = one

    def without(self, names: Iterable[str]) -> None:
        """Leave some out of those who may be to blame for the end; how they ended stays in `ends`."""
        for name in names:
            self.dead.pop(name, None)
            self.stages.pop(name, None)

    def place(self, instance: str, instance_rank: str) -> Event:
        """Where a rank of an instance ran: global rank, host, gpus; {} if that rank has not reported."""
        ranks = sorted(rank for name, rank in self.places if name == instance)
        number = int(instance_rank) if instance_rank.isdigit() else -1
        return self.places[instance, ranks[number]] if 0 <= number < len(ranks) else {}


def read(run: str) -> Story:
    """The story of a run folder's last gateway; an empty one when none has begun. Lines that are no events are passed over."""
    events: List[Event] = []
    try:
        with open(os.path.join(run, "state", "events.jsonl"), encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    one = json.loads(line)
                    float(one["at"]), str(one["event"])
                except (ValueError, KeyError, TypeError):
                    continue
                events = [] if one["event"] == "begun" else events
                events.append(one)
    except FileNotFoundError:
        pass
    return Story(events)


def stamp(at: float) -> str:
    """A moment as logs write it: UTC, milliseconds."""
    moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def seconds(text: str) -> float:
    """The unix seconds of a stamp."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
