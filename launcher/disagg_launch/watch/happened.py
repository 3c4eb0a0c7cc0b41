"""What state/events.jsonl tells: the last events, and since when each instance and rank has been in its stage."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

KEPT = 200
FIRST_TOKEN = re.compile(r"first token sent at (\d+\.\d+)")
Event = dict[str, Any]


class Standing(NamedTuple):
    """The stage somebody is in, since when (unix time), and how much of it is done."""

    stage: str = ""
    at: float = 0.0
    percent: Optional[float] = None


class Happened:
    """What is known from events so far. `instances` by name, `ranks` by global number; `last` are the newest, oldest first."""

    def __init__(self) -> None:
        self.last: deque[Event] = deque(maxlen=KEPT)
        self._forget()

    def _forget(self) -> None:
        self.last.clear()
        self.began_at: Optional[float] = None
        self.opened_at: Optional[float] = None
        self.instances: dict[str, Standing] = {}
        self.ranks: dict[int, Standing] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Take note of further events, in order. One that begins a new life of the gateway makes all before it void."""
        for one in events:
            if one.get("event") == "begun":
                self._forget()
                self.began_at = one.get("at")
            elif one.get("event") == "router" and one.get("stage") == "open" and self.opened_at is None:
                self.opened_at = one.get("at")
            self.last.append(one)
            self._stand(one)

    def _stand(self, one: Event) -> None:
        stage, at, percent = str(one.get("stage") or ""), float(one.get("at") or 0), one.get("percent")
        rank, instance = one.get("rank"), one.get("instance")
        if one.get("event") == "ended":
            stage, rank = "ended", None  # with a rank that went first, all of the instance has ended
        known = self.ranks.get(rank) if isinstance(rank, int) else self.instances.get(instance or "")
        if not stage or (known and known.stage == stage and known.percent == percent):
            return
        same = known is not None and known.stage == stage
        stand = Standing(stage, known.at if known and same else at, percent)
        if isinstance(rank, int):
            self.ranks[rank] = stand
        elif instance:
            self.instances[instance] = stand


class EventLog:
    """state/events.jsonl as it grows: each call of `news` reads what has come since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0

    def news(self) -> list[Event]:
        """The new events; [] without the file. The last line may still be being written, and lines that are no events are passed over."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._end:
                    self._end = 0  # it is another file now
                file.seek(self._end)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._end += len(whole) + len(newline)
        return [event for line in whole.split(b"\n") if (event := _event(line))]


def _event(line: bytes) -> Optional[Event]:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def first_token_at(router_log: Path, events: Iterable[Event]) -> Optional[float]:
    """The unix time at which the router sent its first token after it was opened last, as its log says; None if it has sent none."""
    opened_at = max((one["at"] for one in events if one.get("event") == "router" and one.get("stage") == "open"), default=None)
    try:
        said = FIRST_TOKEN.findall(router_log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return min((float(at) for at in said if opened_at is not None and float(at) >= opened_at), default=None)
