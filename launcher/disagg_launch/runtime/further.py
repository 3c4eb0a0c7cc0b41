"""The further Slurm jobs of a run: folders under further/, each a run of its own whose workers have joined this one's front door.

They supervise themselves. What this run's gateway does is to say here what happens there, and to end them with itself.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import glob
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import folder

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

FOLDER = "further"
LOOK_S = 1.0
OVER = ("stopped", "failed")


class Further:
    """The further jobs of one gateway's life."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._told: Dict[str, str] = {}
        self.seen: List[Dict[str, Any]] = []
        """What `jobs` said last."""

    async def watch(self) -> None:
        """Note what becomes of each, for as long as this run is up."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.seen = await self._gateway.loop.run_in_executor(None, self.jobs)
            for one in self.seen:
                sentence = " ".join(part for part in (one["state"] + (":" if one["reason"] else ""), one["reason"]) if part)
                if self._told.get(one["folder"]) != sentence:
                    self._told[one["folder"]] = sentence
                    self._gateway.board.note(f"{one['folder']} (job {one['job']}): {sentence}")
                    self._gateway.events.tell("further", sentence, folder=one["folder"], job=one["job"])

    def jobs(self) -> List[Dict[str, Any]]:
        """Each one's "folder", "job", "state" ("sent" until its gateway has written one), "reason" if it has failed, and "instances".

        "counts" are of those that run or are to run, by role.
        """
        run = self._gateway.run
        paths = glob.glob(os.path.join(glob.escape(run), FOLDER, "*", "job.json"))
        return [_seen(run, os.path.dirname(path)) for path in sorted(paths, key=lambda p: (len(p), p))]

    def count(self, role: str) -> int:
        """How many instances of a role run in further jobs or are to run there."""
        return sum(one["counts"].get(role, 0) for one in self.seen if one["state"] not in OVER)

    def serving(self) -> Dict[str, int]:
        """How many instances of each role serve in further jobs."""
        return dict(sum((collections.Counter(one["counts"]) for one in self.seen if one["state"] == "ready"), collections.Counter()))

    async def end(self) -> None:
        """Take those that wait out of the queue, and ask those that run to end in order."""
        gateway = self._gateway
        living = [one for one in self.jobs() if one["state"] not in OVER]
        for one in living:
            argv = ("scancel", "--state=PENDING", one["job"])
            with contextlib.suppress(BackendRefused):
                child = await gateway.fleet.nursery.start("scancel", argv, gateway.run, gateway.environ(), lambda _: None)
                await child.settled()
            with contextlib.suppress(BackendRefused):
                path = os.path.join(gateway.run, one["folder"])
                await gateway.loop.run_in_executor(None, folder.call, path, {"kind": "stop"})

    async def ended(self, limit_s: float) -> None:
        """Come back when all that ran have ended, at most after `limit_s`."""
        deadline = self._gateway.loop.time() + limit_s
        while any(one["state"] in ("starting", "ready", "stopping") for one in self.jobs()):
            if self._gateway.loop.time() > deadline or self._gateway.hasten.is_set():
                return
            await asyncio.sleep(LOOK_S / 5)


def _seen(run: str, path: str) -> Dict[str, Any]:
    job = _json(path, "job.json").get("job", "")
    status = _json(path, "state/status.json")
    # what an earlier job of the folder left behind says nothing about this one
    current = status if status.get("job") == job else {}
    reason = _json(path, "state/verdict.json").get("reason", "") if current.get("state") == "failed" else ""
    names = [{key: one[key] for key in ("name", "stage", "url", "ended")} for one in current.get("instances", ())]
    state, resting = current.get("state", "sent"), current.get("resting", ())
    roles = [one["role"] for one in _json(path, "plan.json").get("instances", ()) if one["name"] not in resting]
    told = {"folder": os.path.relpath(path, run), "job": job, "state": state, "reason": reason, "instances": names}
    return {**told, "counts": dict(collections.Counter(roles))}


def _json(path: str, name: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(path, name), encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {}
    return found
