"""Changes of a running deployment: instances come, go or are replaced one by one, while the others serve on and nobody moves.

A change is a folder with a new plan.json, launch.json and what they speak of, rendered beside the run folder's own; the plan holds every
instance there is, as it is, and new ones behind them. Who goes is drained first: no new requests, those under way finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
from typing import TYPE_CHECKING, Collection, Iterator, List, Optional, Set, Tuple

from disagg_launch import launch as launches
from disagg_launch import plan as plans
from disagg_launch.errors import BackendRefused
from disagg_launch.launch import Launch
from disagg_launch.plan import Plan
from disagg_launch.runtime import folder, spares
from disagg_launch.runtime.desk import Message
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.repair import NOT_THERE

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

RESTING = os.path.join("state", "resting.json")
LOOK_S = 0.2
ANSWER_S = 5.0
ROUTED_S = 60.0
"""A healthy instance is in the router's list after a probe or two, or a registration; much later is never."""
UNTOLD = (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException)
"""What comes of a router that does not tell what it is asked."""
KV_S = 1.0
"""A context worker without requests lives so much longer: what it computed last is perhaps still being fetched."""


class Scaling:
    """One change at a time. `resting` are the instances that were stopped on purpose; they keep their places in the plan.

    Also in a later life of the run folder, as after a requeue: they are in state/resting.json as each change found and left them.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._busy = False
        self._problems: List[str] = []
        self.resting = _kept(gateway.run, gateway.plan)
        self._spares = len(gateway.binding.hosts) - gateway.plan.node_count

    def awake(self) -> List[Record]:
        """Everybody else: who runs or is to run."""
        return [one for one in self._gateway.fleet.records.values() if one.name not in self.resting]

    def change(self, message: Message, peer: str) -> Message:
        """Begin a change: "folder" (inside the run folder), and the names of "starts", "stops" and "replaces"; "drain_s"."""
        gateway = self._gateway
        if self._busy or gateway.state != "ready":
            return {"refused": "another change is under way" if self._busy else f"the deployment is {gateway.state}, not ready"}
        # a rank that is on its way would be told that its plan is not the gateway's any more
        coming = [one.name for one in gateway.fleet.records.values() if one.started and one.missing and not one.ended]
        if coming:
            return {"refused": f"{', '.join(coming)} is being started: try again when it is up"}
        try:
            self._adopt(os.path.join(gateway.run, "state", os.path.basename(message["folder"])))
        except (OSError, ValueError, KeyError, BackendRefused) as problem:
            return {"refused": str(problem)}
        self._busy, self._problems = True, []
        gateway.spawn(self._carry_out(message))
        return {"ok": True}

    def progress(self, message: Message, peer: str) -> Message:
        """How the last change goes."""
        hosts, lost = self._gateway.fleet.binding.hosts, self._gateway.fleet.hosts.lost
        return {
            "busy": self._busy,
            "problems": self._problems,
            "resting": sorted(self.resting),
            "stranded": sorted(self._gateway.repair.stranded.why),
            # how many nodes there are, if that is a limit, and which of them cannot be used
            "nodes": None if self._gateway.launch.backend == "local" else len(hosts),
            "gone": [node for node, host in enumerate(hosts) if host in lost],
        }

    def _adopt(self, fresh: str) -> None:
        """Take over the new plan and files. ValueError if somebody who runs would have to move."""
        gateway = self._gateway
        plan, launch = _read(fresh)
        fixed = len(gateway.plan.instances), len(gateway.plan.ranks)
        if plan.instances[: fixed[0]] != gateway.plan.instances or plan.ranks[: fixed[1]] != gateway.plan.ranks:
            raise ValueError("the new plan moves an instance that runs: plan it again with `disagg-launch scale`")
        new = gateway.fleet.adopt(plan, launch)
        gateway.adopt(plan, launch, new)
        self.resting |= {one.name for one in new}
        # only now: where there is no room for the files, what is known is whole all the same, and the change can be asked for again
        _replace(fresh, gateway.run)
        folder.write_bound(gateway.run, plan, launch, gateway.fleet.binding)
        _keep(gateway.run, plan, self.resting)

    async def _carry_out(self, message: Message) -> None:
        gateway, drain_s = self._gateway, float(message.get("drain_s", 60))
        try:
            await asyncio.gather(*(self._begin(gateway.fleet.records[name]) for name in message["starts"]))
            for name in message["replaces"]:
                if not self._problems:  # whoever follows would meet the same
                    await self._end(gateway.fleet.records[name], drain_s)
                    await self._begin(gateway.fleet.records[name])
            # last, so that who was started to stand in does; and not at all when who should take over is not there
            for name in () if self._problems else message["stops"]:
                await self._end(gateway.fleet.records[name], drain_s)
            if message["stops"]:
                await self._give_back()
        except Exception as wrong:
            self._problems.append(f"the gateway failed ({wrong!r}): see logs/gateway.log")
            raise
        finally:
            self._busy = False
            if not gateway.fleet.stopping:  # who is stopped with everybody is not at rest
                with contextlib.suppress(OSError):
                    _keep(gateway.run, gateway.plan, self.resting)
            gateway.save(final=True)  # whoever waited for the change asks for the status next

    async def _give_back(self) -> None:
        """Hosts on which nobody runs any more go back, except as many spare ones as there were at first."""
        gateway = self._gateway
        fleet = gateway.fleet
        idle = spares.surplus(gateway.plan, fleet.binding, self.resting, fleet.hosts.lost, self._spares)
        gone = await fleet.hosts.give_back(gateway.launch.starts[0], idle, gateway.environ())
        if gone:
            gateway.board.note(f"given back: {', '.join(gone)}")

    async def _begin(self, one: Record) -> None:
        """Start an instance, and have requests sent to it once it is healthy; one that fails is put to rest again."""
        gateway = self._gateway
        with self._alone(one):
            self._say(one, "is started")
            try:
                await gateway.repair.start(one)
                self.resting.discard(one.name)
                await gateway.repair.until_healthy(one)
                await self.routed(one)
            except BackendRefused as refused:
                one.end(str(refused), gateway.loop.time())
            if one.ended:
                last = "; ".join(one.last_lines(3))
                self._problems.append(f"{one.name} did not come up: {one.ended}" + (f" ({last})" if last else ""))
                gateway.board.note(self._problems[-1])
                gateway.events.tell("change", self._problems[-1], one.name)
                await self._stop(one)

    async def _end(self, one: Record, drain_s: float) -> None:
        gateway = self._gateway
        with self._alone(one):
            self._say(one, "is drained")
            await gateway.repair.tell_router(one, "drain")
            left = await self._drained(one, drain_s)
            if left:
                many = f"still had {left} requests" if left > 0 else "may have had requests (the router did not tell)"
                self._problems.append(f"{one.name} {many} after {drain_s:g} s; they were cut")
            await gateway.repair.tell_router(one, "remove")
            await self._stop(one)
            self._say(one, "is stopped")

    def _say(self, one: Record, what: str) -> None:
        self._gateway.board.note(f"{one.name} {what}")
        self._gateway.events.tell("change", what, one.name)

    async def _stop(self, one: Record) -> None:
        gateway = self._gateway
        gateway.desk.tell_leases({"stop": True}, one.name)
        await gateway.fleet.end_step(gateway.fleet.step_of[one.name], gateway.environ(), gateway.hasten)
        one.renew()
        one.forgive()  # what was wished for does not count as a failure
        self.resting.add(one.name)

    async def _drained(self, one: Record, drain_s: float) -> int:
        """How many requests the instance still has: 0 when it could finish in time, -1 if the router did not tell."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + drain_s
        while True:
            active = await loop.run_in_executor(None, self._active, one)
            if active == 0 and one.role == plans.CONTEXT:
                await asyncio.sleep(KV_S)
            if active == 0 or loop.time() > deadline:
                return active
            await asyncio.sleep(LOOK_S)

    async def routed(self, one: Record) -> None:
        """Wait until the router sends requests to a healthy instance; the end of the instance if it says that it does not."""
        if not self._gateway.router_token:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ROUTED_S
        while not one.ended and not self._gateway.fleet.stopping:
            if await loop.run_in_executor(None, self._listed, one) is not False:
                return
            if loop.time() > deadline:
                one.end(f"healthy, but the router did not take it in within {ROUTED_S:g} s", loop.time())
            await asyncio.sleep(LOOK_S)

    def _active(self, one: Record) -> int:
        """Requests that the router has given the instance; 0 when it knows no such worker or is not there, -1 when it does not tell."""
        try:
            return sum(row["active"] for row in self._told(one, "/admin/workers"))
        except (ConnectionRefusedError, NotImplementedError):
            return 0  # whoever was served through it is not any more; or it is one that never tells
        except UNTOLD:
            return -1

    def _listed(self, one: Record) -> Optional[bool]:
        """Whether the router sends requests to the instance; None if it tells of nobody."""
        try:
            rows = self._told(one, "/cluster_info")
        except NotImplementedError:
            return None
        except UNTOLD:
            return False
        return any(row.get("state", "ready") == "ready" for row in rows)

    def _told(self, one: Record, path: str) -> List[Message]:
        """What the router says of the instance, nothing if it does not know it. UNTOLD; NotImplementedError if it tells of nobody."""
        connection = http.client.HTTPConnection(self._gateway.fleet.router.host, self._gateway.fleet.told_at, timeout=ANSWER_S)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._gateway.router_token}"})
            answer = connection.getresponse()
            told = None if answer.status == NOT_THERE else json.loads(answer.read())
        finally:
            connection.close()
        if told is None or (isinstance(told, dict) and "current_workers" not in told):
            raise NotImplementedError(path)
        rows = told if isinstance(told, list) else [row for rows in told["current_workers"].values() for row in rows]
        return [row for row in rows if (row["host"], row["port"]) == (one.host, one.port)]

    @contextlib.contextmanager
    def _alone(self, one: Record) -> Iterator[None]:
        """While it lasts, the end of this instance is nobody else's business."""
        self._gateway.repair.under_way.add(one.name)
        self._gateway.repair.stranded.leave(one.name)
        try:
            yield
        finally:
            self._gateway.repair.under_way.discard(one.name)


def _read(path: str) -> Tuple[Plan, Launch]:
    with open(os.path.join(path, "plan.json"), encoding="utf-8") as file:
        plan = plans.from_json(file.read())
    with open(os.path.join(path, "launch.json"), encoding="utf-8") as file:
        return plan, launches.from_json(file.read())


def _replace(fresh: str, run: str) -> None:
    """Every file of `fresh` goes to its place in the run folder, each at once."""
    for where, _, names in os.walk(fresh):
        to = os.path.join(run, os.path.relpath(where, fresh))
        os.makedirs(to, exist_ok=True)
        for name in names:
            os.replace(os.path.join(where, name), os.path.join(to, name))
    shutil.rmtree(fresh)


def _keep(run: str, plan: Plan, resting: Collection[str]) -> None:
    """Write down who is at rest."""
    folder.write_private(os.path.join(run, RESTING), json.dumps({"digest": plan.digest, "resting": sorted(resting)}) + "\n")


def _kept(run: str, plan: Plan) -> Set[str]:
    """Who was at rest when the run folder, with this plan, was up last."""
    try:
        with open(os.path.join(run, RESTING), encoding="utf-8") as file:
            found = json.load(file)
        return {one.name for one in plan.instances if one.name in found["resting"]} if found["digest"] == plan.digest else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
