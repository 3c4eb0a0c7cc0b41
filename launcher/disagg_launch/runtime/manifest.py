"""plan.json and launch.json as a rank reads them: in attributes what `plan.Plan` and `launch.Launch` are, as light as can be.

Importing dataclasses and building those of the two modules costs a rank more than all else it does before it becomes its worker, and
there may be thousands of ranks. Only what a rank asks for becomes an object.
"""

from __future__ import annotations

import hashlib
import json
import os
from types import SimpleNamespace

from disagg_launch.errors import RankRefused

TYPE_CHECKING = False  # typing's own flag is not worth its import here
if TYPE_CHECKING:
    from typing import Any, Iterator

    from disagg_launch.launch import Launch
    from disagg_launch.plan import Plan

VERSION = 1


class PlanView:
    """plan.json: `instances` and the rows of each, by name."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.digest: str = raw["digest"]
        self.node_count: int = raw["node_count"]
        self.instances = [SimpleNamespace(**{**i, "nodes": tuple(i["nodes"])}) for i in raw["instances"]]
        self._ranks = raw["ranks"]
        self._by_name = {i.name: i for i in self.instances}

    def instance(self, name: str) -> SimpleNamespace:
        """The instance called `name`; KeyError if there is none."""
        return self._by_name[name]

    def ranks_of(self, name: str) -> tuple[SimpleNamespace, ...]:
        """The rows of one instance, in order of instance_rank."""
        one = self._by_name[name]
        return tuple(SimpleNamespace(**row) for row in self._ranks[one.first_rank : one.first_rank + one.size])


class LaunchView:
    """launch.json: `starts` and `workers`, the router's address, and the backend's name."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.digest: str = raw["digest"]
        self.backend: str = raw["backend"]
        self.starts = [SimpleNamespace(**s) for s in raw["starts"]]
        self.workers = [SimpleNamespace(**w) for w in raw["workers"]]
        self.router = SimpleNamespace(**raw["router"])


def read(run: str) -> tuple[Plan, Launch]:
    """plan.json and launch.json of the run folder, as views that stand in for the real ones: what a rank asks of those, they have.

    RankRefused STALE_PLAN if they are missing, edited, or of another version.
    """
    try:
        plan, launch = _load(run, "plan.json"), _load(run, "launch.json")
        found = _digest(plan)
        if found != plan["digest"]:
            raise ValueError(f"plan.json says it is {plan['digest']} and is {found}: it was edited by hand")
        views: tuple[Any, Any] = PlanView(plan), LaunchView(launch)
        return views
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise RankRefused(f"{run} holds no usable plan ({wrong}): render the run again", RankRefused.STALE_PLAN) from None


def parts(text: Any) -> Iterator[Any]:
    """The parts of a late-bound text: strings, and objects with `what` and `of`."""
    if isinstance(text, str):
        yield text
        return
    for part in text:
        yield SimpleNamespace(what=part["ref"], of=part["of"]) if isinstance(part, dict) else part


def _load(run: str, name: str) -> dict[str, Any]:
    with open(os.path.join(run, name), encoding="utf-8") as file:
        raw: dict[str, Any] = json.load(file)
    if raw.get("version") != VERSION:
        raise ValueError(f"{name} has version {raw.get('version')!r}, {VERSION} is needed")
    return raw


def _digest(plan: dict[str, Any]) -> str:
    """What `plan.digest` says of the same plan: a test holds the two together."""
    body = {key: value for key, value in plan.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
