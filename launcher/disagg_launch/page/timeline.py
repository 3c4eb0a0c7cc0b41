"""The start-up as the page draws it: for each instance when it came into which stage of its first life, and when the router opened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

Event = dict[str, Any]
UP = "healthy"


class Timeline:
    """Filled by events as they come; a gateway that begins anew begins it anew."""

    def __init__(self) -> None:
        self.began_at: Optional[float] = None
        self.opened_at: Optional[float] = None
        self._stages: dict[str, list[tuple[str, float]]] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Take note of further events, in order."""
        for one in events:
            at, kind, name = one.get("at"), one.get("event"), one.get("instance")
            if not isinstance(at, (int, float)):
                continue
            if kind == "begun":
                self.began_at, self.opened_at, self._stages = float(at), None, {}
            elif kind == "router" and one.get("stage") == "open" and self.opened_at is None:
                self.opened_at = float(at)
            elif kind == "stage" and isinstance(name, str) and name not in ("", "router") and "rank" not in one and one.get("life") == 1:
                self._enter(name, str(one.get("stage")), float(at))

    def as_dict(self) -> dict[str, Any]:
        """{began_at, opened_at, rows: [{name, stages: [[stage, at], ...], done}]}: unix seconds; `done` is None until it was healthy."""
        rows = [
            {"name": name, "stages": stages, "done": next((at for stage, at in stages if stage == UP), None)}
            for name, stages in self._stages.items()
        ]
        return {"began_at": self.began_at, "opened_at": self.opened_at, "rows": rows if self.began_at is not None else []}

    def _enter(self, name: str, stage: str, at: float) -> None:
        stages = self._stages.setdefault(name, [("scheduled", self.began_at)] if self.began_at is not None else [])
        # what comes after it was up once is no start-up; a percentage alone is no new stage
        if not any(known in (stage, UP) for known, _ in stages):
            stages.append((stage, at))
