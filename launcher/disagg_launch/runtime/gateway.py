"""The gateway: starts the steps, waits until every instance is really ready, opens the router once, watches, and stops all in order.

One asyncio loop; nothing runs per worker but a pipe, a probe and a record. What to do is decided by `readiness.judge` and the policy
of launch.json; `fleet` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import socket
import subprocess
from typing import Any, Callable, Coroutine, Dict, List, Optional, Sequence, Set

from disagg_launch.errors import BackendRefused, RankRefused, WorkerDied
from disagg_launch.launch import Launch
from disagg_launch.plan import Plan
from disagg_launch.runtime import allocation, exposition, folder
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime import verdict as verdicts
from disagg_launch.runtime.autoscaler import Autoscaler
from disagg_launch.runtime.binding import Binding, Reader, Scope
from disagg_launch.runtime.board import Board
from disagg_launch.runtime.closing import Closing
from disagg_launch.runtime.desk import Desk
from disagg_launch.runtime.events import Events
from disagg_launch.runtime.exposition import Exposition
from disagg_launch.runtime.fleet import ROUTER, Fleet
from disagg_launch.runtime.further import Further
from disagg_launch.runtime.joined import Joined
from disagg_launch.runtime.lookout import Lookout
from disagg_launch.runtime.names import GATEWAY, LIFE
from disagg_launch.runtime.opening import Opening
from disagg_launch.runtime.ports import Holding
from disagg_launch.runtime.proof import Proof
from disagg_launch.runtime.readiness import FAILED, READY, Verdict
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.repair import Repair
from disagg_launch.runtime.reports import Reports, is_loopback, short
from disagg_launch.runtime.scaling import Scaling
from disagg_launch.runtime.vigil import Vigil
from disagg_launch.runtime.vitals import Vitals

STOPPED = "stopped"
TICK_S = 0.5
REST_EACH_S = 0.01
CALM_S = 0.01
"""Judgements are at least this far apart, so that a burst of events is judged once."""


class Gateway:
    """One life of one deployment. `serve` is the whole of it."""

    def __init__(self, run: str, plan: Plan, launch: Launch, binding: Binding, listen: str, board: Board) -> None:
        self.run, self.plan, self.launch, self.binding, self.listen, self.board = run, plan, launch, binding, listen, board
        self.fleet = Fleet(run, plan, launch, binding, self._changed)
        self.token = secrets.token_hex(32)
        self.life = secrets.token_hex(8)
        self.state = "starting"
        self.signals: List[int] = []
        self.asked_to_stop = False
        self.repair = Repair(self)
        self.scaling = Scaling(self)
        self.holding = Holding(self)
        self.joined = Joined(self, launch.router.run) if launch.router.run else None
        self.further = Further(self)
        self.autoscaler = Autoscaler(self)
        self.lookout = Lookout(self)
        self.vitals = Vitals(self)
        self.opening = Opening(self)
        self.closing = Closing(self)
        self.events = Events(run)
        self.exposition = Exposition(lambda: exposition.page(self.status(), self.events.counts, self.events.began_at, self.ready_s))
        self.ready_s = 0.0
        self.address = ""
        self.warden: Optional[subprocess.Popen[bytes]] = None
        self._tasks: Set[asyncio.Future[Any]] = set()

    # ---- the life -------------------------------------------------------------------------------------------------------

    async def serve(self) -> int:
        """Run the deployment until it is stopped or fails; the exit status."""
        self.loop = asyncio.get_running_loop()
        self.wake, self.hasten = asyncio.Event(), asyncio.Event()
        self.proof = Proof(self)
        reports = Reports(self.fleet, self.events, self.life, lambda: self.state, self.end_in_order, self.wake.set)
        reports.kinds.update({"change": self.scaling.change, "progress": self.scaling.progress})
        fence_s = self.launch.policy.fence_s
        self.desk = Desk(self.token.encode(), fence_s, reports.answer, reports.lost, reports.hear, self.vitals.heard)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.loop.add_signal_handler(number, self._signalled, number)
        self.fleet.nursery.open()
        try:
            await self._open()
            verdict = await self.opening.carry_out()
            if verdict.state == READY:
                verdict = await self._watch()
        except (BackendRefused, RankRefused) as refused:
            verdict = Verdict(FAILED, str(refused), BackendRefused.exit_code)
        await self.closing.carry_out(verdict)
        return verdict.exit_code

    async def _open(self) -> None:
        """Everything that has to stand before the first rank asks for it."""
        plan = self.plan
        job, counts = allocation.job(os.environ), (len(plan.instances), len(plan.ranks))
        text = f"plan {plan.digest} of {plan.name}"
        verdicts.forget(self.run)
        self.events.tell("begun", text, digest=plan.digest, job=job, instances=counts[0], ranks=counts[1])
        self.fleet.bind(await self.holding.settle())
        if self.joined is not None:
            self.joined.open()
            self.spawn(self.joined.watch())
        self.opening.claim_ports()
        port = await self.desk.open(self.listen)
        self.address = f"{self.listen}:{port}"
        await self.exposition.open(self.listen)
        exposition.write_targets(self.run, self.figures(), plan.name)
        folder.write_state(self.run, self.token, self.address)
        folder.write_bound(self.run, self.plan, self.launch, self.fleet.binding)
        self.warden = folder.post_warden(self.life, self.launch.policy.grace_s)
        self.fleet.spared.add(self.warden.pid)
        steps = len(self.launch.starts)
        self.board.note(f"plan {self.plan.digest}: {steps} steps, {len(self.plan.instances)} instances, {len(self.plan.ranks)} ranks")
        if job:
            self.spawn(self.opening.tell_job_times())

    def adopt(self, plan: Plan, launch: Launch, new: Sequence[Record]) -> None:
        """Go on with a plan that has more instances; `new` are their records."""
        self.plan, self.launch = plan, launch
        self.lookout.watch(new)

    async def _watch(self) -> Verdict:
        """After ready: carry out the policy until somebody asks to stop or it says so."""
        for name in sorted(self.scaling.resting):  # its configuration names them
            await self.repair.tell_router(self.fleet.records[name], "remove")
        self.spawn(self.autoscaler.run())
        self.spawn(Vigil(self).run())
        self.spawn(self.further.watch())
        while True:
            verdict = self.interrupted() or self.repair.verdict()
            if verdict is not None:
                return verdict
            self.save()
            await self.pause(self._rest_s())

    # ---- what is seen and heard -------------------------------------------------------------------------------------------

    def _changed(self, name: str) -> None:
        self.lookout.nudge(name)
        one = self.fleet.router if name == ROUTER else self.fleet.records[name]
        if one.ended or (one.started and not one.steps):
            self.wake.set()

    def _signalled(self, number: int) -> None:
        self.signals.append(number)
        if len(self.signals) > 1 or self.fleet.stopping:
            self.hasten.set()
        self.wake.set()

    def interrupted(self) -> Optional[Verdict]:
        """The end, if somebody has asked for it; also then it is told if not all were there any more."""
        missing = self.repair.stranded.told()
        if self.signals:
            return Verdict(STOPPED, f"{signal.Signals(self.signals[0]).name} received{missing}", 128 + self.signals[0])
        return Verdict(STOPPED, f"asked to stop{missing}", WorkerDied.exit_code if missing else 0) if self.asked_to_stop else None

    async def pause(self, longest_s: float = TICK_S) -> None:
        """Come back when something changed, or after `longest_s`; not sooner than CALM_S."""
        await asyncio.sleep(CALM_S)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.wake.wait(), longest_s)
        self.wake.clear()

    def _rest_s(self) -> float:
        """How long to wait for news: longer the more there is to look through, once all are up and all is written down."""
        ones = self.fleet.records.values()
        return max(TICK_S, len(ones) * REST_EACH_S) if not self.board.owes and all(one.is_up for one in ones) else TICK_S

    # ---- what others see --------------------------------------------------------------------------------------------------

    def save(self, final: bool = False) -> None:
        """What is known now, for whoever looks."""
        self.events.follow([*self.fleet.records.values(), self.fleet.router])
        self.board.save(self.status, final)

    def status(self) -> Dict[str, Any]:
        """state/status.json."""
        return {
            "name": self.plan.name,
            "digest": self.plan.digest,
            "state": self.state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            # tells a later job's status from what an earlier job of this folder left behind
            "job": allocation.job(os.environ),
            "router": {**self.fleet.router.as_dict(), **self._ways_in()},
            "instances": [one.as_dict() for one in self.fleet.records.values()],
            "resting": sorted(self.scaling.resting),
            # who is missing because it cannot be started now, and why
            "degraded": dict(self.repair.stranded.why),
            "further": self.further.seen,
            "metrics": self.figures(),
            "autoscale": self.autoscaler.told(),
        }

    def _ways_in(self) -> Dict[str, str]:
        """Where the launcher asks the router, and workers register; and the file by which clients know it, if they come by TLS."""
        inside, certificate = f"http://{self.fleet.router.host}:{self.fleet.told_at}", self.launch.router.tls_cert
        return {"inside": inside, **({"certificate": certificate} if certificate else {})}

    def figures(self) -> Dict[str, str]:
        """Where figures for Prometheus are: this gateway's and the router's."""
        metrics = Scope(self.run, self.plan, self.launch, self.fleet.binding).text(self.launch.router.metrics, Reader())
        return {"gateway": self.exposition.url, **({"router": self.fleet.router.at(metrics)} if metrics else {})}

    def end_in_order(self) -> None:
        """Begin to end, as somebody has asked for."""
        self.asked_to_stop = True
        self.wake.set()

    @property
    def router_token(self) -> str:
        """What the router knows us by; "" when it is one that takes no word of ours."""
        return self.joined.token if self.joined is not None else self.token if self.launch.router.argv else ""

    @property
    def heeded(self) -> bool:
        """Whether the router gives nobody requests of whom we say so."""
        return self.joined.heeded if self.joined is not None else self.launch.router.proves == "pairs"

    def environ(self) -> Dict[str, str]:
        """What every child gets on top of the gateway's own environment."""
        return {**os.environ, GATEWAY: self.address, "DISAGG_RUN": self.run, LIFE: self.life}

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done beside everything else, until the end."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def cease(self) -> None:
        """All of that ends now."""
        for task in self._tasks:
            task.cancel()

    def _over(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "a part of the gateway failed", "exception": task.exception(), "future": task})


def _address(binding: Binding) -> str:
    """Where this machine's gateway is reached by the ranks: loopback, or the address used toward another host."""
    own = short(socket.gethostname())
    far = [a for host, a in zip(binding.hosts, binding.addresses) if not is_loopback(a) and short(host) != own]
    return allocation.address("", far[0]) if far else bindings.LOOPBACK


def main(
    run: str, hosts: Sequence[str], addresses: Sequence[str], listen: str, quiet: bool, opened: Optional[Callable[[], None]] = None
) -> int:
    """Be the gateway of a run folder: the exit status. BadInput or BackendRefused before anything has been started.

    `opened` is called once, when the router is open.
    """
    run = os.path.abspath(run)
    lock = folder.claim(run)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a pipe, a log and a probe for each of a thousand instances
    plan, launch = folder.read(run)
    binding = bindings.bound(plan, tuple(hosts), tuple(addresses)) if hosts else bindings.load(run) or bindings.on_this_machine(plan)
    listen = listen or _address(binding)
    board = Board(run, quiet, opened)
    try:
        return asyncio.run(Gateway(run, plan, launch, binding, listen, board).serve())
    finally:
        board.close()
        lock.close()
