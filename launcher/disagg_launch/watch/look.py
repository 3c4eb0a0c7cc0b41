"""Looking: reads a run folder and asks the router's /metrics, and gives snapshots. The only part of this room that touches anything."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Optional, Union

from disagg_launch import plan as plans
from disagg_launch.errors import BadInput
from disagg_launch.plan import Plan
from disagg_launch.runtime import binding as bindings
from disagg_launch.watch import figures
from disagg_launch.watch.figures import Figures
from disagg_launch.watch.happened import EventLog, Happened
from disagg_launch.watch.shape import Snapshot
from disagg_launch.watch.snapshot import Known, snapshot
from disagg_launch.watch.state import LIVING, Status, read_json

ANSWER_S = 2.0


class Look:
    """Looks again and again at one run folder; what happened since the last look is in the next snapshot's rates."""

    def __init__(self, run: Path, read_status: Optional[Callable[[Path], dict[str, Any]]] = None) -> None:
        self.run = run
        self._status = read_status or Status()
        self._log = EventLog(run / "state" / "events.jsonl")
        self._happened = Happened()
        self._plan: Optional[tuple[float, Plan]] = None
        self._before: Optional[Snapshot] = None

    def __call__(self, page: Optional[Union[str, Figures]] = None) -> Snapshot:
        """A snapshot of now. `page` is the router's /metrics or its figures, if the caller has them; else they are asked for.

        BadInput if this is no run folder. Before a gateway has run in it, `state` is "rendered".
        """
        self._happened.add(self._log.news())
        found = self._status(self.run)
        if found["state"] == "rendered" and self._happened.began_at:
            found["state"] = "starting"  # the gateway's first word comes before its first status
        at = time.time()
        known = Known(
            self._read_plan(),
            _hosts(self.run),
            found,
            self._happened,
            _figures(found, page),
            None if found["state"] in LIVING else read_json(self.run / "state" / "verdict.json"),
        )
        self._before = snapshot(known, at, self._before)
        return self._before

    def _read_plan(self) -> Plan:
        """plan.json, which a change of the deployment replaces."""
        path = self.run / "plan.json"
        try:
            changed = path.stat().st_mtime
            if self._plan is None or self._plan[0] != changed:
                self._plan = changed, plans.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            raise BadInput(f"{self.run}: no run folder ({wrong}); name one that `disagg-launch up` or `submit` made") from None
        return self._plan[1]


def _hosts(run: Path) -> tuple[str, ...]:
    binding = bindings.load(str(run))
    return binding.hosts if binding else ()


def _figures(found: dict[str, Any], page: Optional[Union[str, Figures]]) -> Optional[Figures]:
    """What the router's page says; None if there is no page, or none that can be read."""
    if isinstance(page, Figures):
        return page
    url = (found.get("metrics") or {}).get("router")
    if page is None and url and found["state"] in LIVING:
        page = _asked(url)
    try:
        return figures.read(page) if page else None
    except ValueError:
        return None


def _asked(url: str) -> Optional[str]:
    import requests

    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy would be asked for a machine that only this one can reach
            answer = session.get(url, timeout=ANSWER_S)
    except requests.RequestException:
        return None
    return answer.text if answer.ok else None
