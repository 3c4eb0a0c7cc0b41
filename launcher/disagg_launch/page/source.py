"""What the page is told, made at most once a second however many look, and not on the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Protocol

import orjson

from disagg_launch.page.timeline import UP, Timeline
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.watch.figures import Figures, WorkerFigures
from disagg_launch.watch.happened import EventLog
from disagg_launch.watch.look import Look

FRESH_S = 0.9
TOLD = 100
"""So many of the newest events are told."""
LEFT_OUT = ("nodes", "instances", "router")


class View(NamedTuple):
    """JSON as it is sent. `now` is an object that still lacks its curves; `layout` and `timeline` change rarely, `now` has their tags."""

    now: bytes
    layout: bytes
    timeline: bytes
    urls: dict[str, str]  # "host:port" by instance


class Looking(Protocol):
    """Makes (a snapshot, the start-up) of the router's figures; may read files."""

    def __call__(self, seen: Figures, ready: bool) -> tuple[dict[str, Any], dict[str, Any]]: ...


class Source:
    """Views, each shared by all who ask within a second."""

    def __init__(self, look: Looking, figures: Callable[[], Figures], ready: Callable[[], bool], may: dict[str, bool]) -> None:
        self._look, self._figures, self._ready, self._may = look, figures, ready, may
        self._making: Optional[asyncio.Future[View]] = None
        self._begun = 0.0
        self._said: list[dict[str, Any]] = []

    async def view(self) -> View:
        """A view that is at most a second old."""
        now = time.monotonic()
        if self._making is None or (self._making.done() and (now - self._begun > FRESH_S or self._making.exception())):
            self._begun = now
            loop = asyncio.get_running_loop()
            self._making = asyncio.ensure_future(loop.run_in_executor(None, self._make, self._figures(), self._ready(), list(self._said)))
        return await asyncio.shield(self._making)

    def say(self, instance: str, text: str, bad: bool = False) -> None:
        """Have something told among what happened, beside the gateway's own events."""
        self._said = [*self._said[-19:], {"at": time.time(), "event": "ended" if bad else "change", "instance": instance, "text": text}]

    def _make(self, seen: Figures, ready: bool, said: list[dict[str, Any]]) -> View:
        found, start_up = self._look(seen, ready)
        layout, timeline = orjson.dumps(layout_of(found)), orjson.dumps(start_up)
        now = {name: value for name, value in found.items() if name not in LEFT_OUT}
        now["router"] = {name: value for name, value in found["router"].items() if name != "histograms"}
        now["instances"] = [{name: value for name, value in one.items() if name != "ranks"} for one in found["instances"]]
        now["events"] = sorted([*found["events"], *said], key=lambda event: event.get("at") or 0)
        now |= {"may": self._may, "layout": _tag(layout), "timeline": _tag(timeline)}
        urls = {one["name"]: one["url"].removeprefix("http://") for one in found["instances"]}
        return View(orjson.dumps(now), layout, timeline, urls)


class OfRun:
    """Looks at a run folder. That the router lives to ask is proof enough: neither the gateway nor Slurm is asked."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._look = Look(run, read_status=_written)
        self._log = EventLog(run / "state" / "events.jsonl")
        self._timeline = Timeline()
        self._told: deque[dict[str, Any]] = deque(maxlen=TOLD)

    def __call__(self, seen: Figures, ready: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the folder and the figures say."""
        news = self._log.news()
        self._timeline.add(news)
        self._told.extend(one for one in news if _is_told(one))
        return {**self._look(seen), "events": list(self._told)}, self._timeline.as_dict()


class Alone:
    """A router without a run folder: it shows what it knows itself."""

    def __init__(self, name: str, url: str, workers: Mapping[tuple[str, str], object]) -> None:
        self._name, self._url, self._workers = name, url, workers

    def __call__(self, seen: Figures, ready: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the figures say."""
        found: dict[str, Any] = {"name": self._name, "digest": "", "state": "ready" if ready else "starting", "url": self._url, "job": ""}
        found |= {"at": time.time(), "began_at": None, "ready_s": None, "answers": True, "nodes": [], "events": [], "verdict": None}
        found["instances"] = [
            _row(CONTEXT if (CONTEXT, url) in self._workers else GENERATION, url, one) for url, one in seen.workers.items()
        ]
        names = ("requests_in_flight", "requests_queued", "total_requests")
        in_flight, queued, requests = (int(seen.values.get(name, 0)) for name in names)
        found["router"] = {"in_flight": in_flight, "queued": queued, "requests": requests}
        return found, Timeline().as_dict()


def _row(role: str, url: str, one: WorkerFigures) -> dict[str, Any]:
    row: dict[str, Any] = {"name": url, "role": role, "url": f"http://{url}", "stage": "", "percent": None, "since_s": None}
    row |= {"detail": "", "last_line": "", "ended": "", "restarts": 0, "worker_state": one.state, "active": one.active}
    return {**row, "requests": one.requests, "errors": one.errors, "ranks": []}


def layout_of(found: dict[str, Any]) -> dict[str, Any]:
    """Which rank is where: what changes only when somebody moves or comes back."""
    hosts = {node["node"]: node["host"] for node in found["nodes"]}
    ranks = ("rank", "tp", "pp", "node", "gpu", "pid")
    rows = [
        {"name": one["name"], "ranks": [{**{k: r[k] for k in ranks}, "host": r["host"] or hosts.get(r["node"], "")} for r in one["ranks"]]}
        for one in found["instances"]
    ]
    return {"nodes": found["nodes"], "instances": rows}


def _is_told(event: dict[str, Any]) -> bool:
    """Whether it is more than a step of a start-up or a proof among hundreds, which would push the rest out."""
    kind = event.get("event")
    if kind == "stage":
        return event.get("stage") == UP and event.get("life") != 1
    return kind != "rank" and not (kind == "proof" and event.get("ok"))


def _written(run: Path) -> dict[str, Any]:
    """state/status.json as the gateway wrote it last."""
    found: dict[str, Any] = json.loads((run / "state" / "status.json").read_text(encoding="utf-8"))
    return found


def _tag(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=6).hexdigest()
