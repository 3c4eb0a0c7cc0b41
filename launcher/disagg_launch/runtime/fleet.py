"""The gateway's hands: start a step or the router, write down what they say and how they end, stop them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Callable, Collection, Dict, List, Mapping, Optional, Sequence, Set

from disagg_launch.errors import BackendRefused, WorkerDied
from disagg_launch.launch import Launch, Start
from disagg_launch.plan import Plan, Rank
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime import processes, record, spares, supervise
from disagg_launch.runtime.binding import Binding, Reader, Scope
from disagg_launch.runtime.hosts import Hosts
from disagg_launch.runtime.launchers import AFTERWARDS, blame_of, label_of
from disagg_launch.runtime.names import LIFE
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.supervise import Child, Nursery
from disagg_launch.runtime.tasks import tasks_of

ROUTER = "router"
GONE_S = 2.0
"""How long after a rank's end its step may take to end too and tell the exit code: srun says a second later what a task was killed by."""


class Fleet:
    """Every process of the run and what is known of it. `changed` is called whenever a record has changed."""

    def __init__(self, run: str, plan: Plan, launch: Launch, binding: Binding, changed: Callable[[str], None]) -> None:
        self.run, self.plan, self.launch, self.binding = run, plan, launch, binding
        self._changed = changed
        self.records = {i.name: record.of_instance(plan, i, binding) for i in plan.instances}
        host = bindings.router_host(launch, binding)
        port = launch.router.port + binding.front_up
        self.router = Record(ROUTER, bindings.LOOPBACK if host in bindings.ANYWHERE else host, port, "logs/router.log")
        self.router.scheme = "https" if launch.router.tls_cert else "http"
        self._index()
        self.nursery = Nursery()
        self.children: Dict[str, Child] = {}
        self.stopping = False
        self.told_at = launch.router.asked_at(binding.front_up)
        """The port, in plain HTTP, at which the router is asked, and told who has ended and who is back."""
        self.spared: Set[int] = set()
        self.hosts = Hosts(run, self.nursery)
        self._gone: Dict[str, List[int]] = {}
        self._blamed: Dict[str, tuple[int, str]] = {}

    def _index(self) -> None:
        plan, launch = self.plan, self.launch
        self.step_of = {name: start for start in launch.starts for name in start.instances}
        self.tasks = {start.step: tasks_of(plan, start, launch.workers) for start in launch.starts}
        self.rank_record = {r.rank: self.records[r.instance] for r in plan.ranks}

    def adopt(self, plan: Plan, launch: Launch) -> List[Record]:
        """Go on with a plan that has more instances behind those there are; the new records. BackendRefused if hosts are missing."""
        self.binding = bindings.extended(self.binding, plan.node_count)
        self.plan, self.launch = plan, launch
        new = [record.of_instance(plan, i, self.binding) for i in plan.instances if i.name not in self.records]
        self.records.update({one.name: one for one in new})
        self._index()
        return new

    def bind(self, binding: Binding) -> None:
        """Go on with other hosts or ports."""
        self.binding = binding
        for one in self.plan.instances:
            known = self.records[one.name]
            known.host, known.port = binding.addresses[one.nodes[0]], one.port + binding.side_up
        if self.launch.router.argv:
            self.router.port = self.launch.router.port + binding.front_up
            self.told_at = self.launch.router.asked_at(binding.front_up)

    def now_s(self) -> float:
        """The gateway's clock."""
        return asyncio.get_running_loop().time()

    async def start_step(self, start: Start, environ: Mapping[str, str]) -> None:
        """One step begins. BackendRefused if its program cannot be run, or everything is about to end."""
        if self.stopping:
            raise BackendRefused(f"{start.step} is not started: the deployment is stopping")
        for name in start.instances:
            self.records[name].begin(self.run, self.plan.digest)
        self._gone[start.step] = []
        self._blamed.pop(start.step, None)
        child = await self.nursery.start(start.step, start.argv, self.run, environ, self._hearer(start))
        self.children[start.step] = child
        child.watcher = asyncio.ensure_future(self._await_step(start, child))
        for name in start.instances:
            self._changed(name)

    def leave_lost_hosts(self, start: Start, resting: Collection[str], trial: bool = False) -> List[int]:
        """Bind those nodes of a step whose hosts are lost to spare ones; their numbers. BackendRefused when there is no spare.

        For a `trial`, a host that was only silent is as good as none.
        """
        nodes = sorted({row.node for task in self.tasks[start.step] for row in task.rows})
        try:
            fresh = spares.rebound(self.plan, self.binding, nodes, self.hosts.lost, resting)
        except BackendRefused:
            if not trial:
                raise
            fresh = spares.rebound(self.plan, self.binding, nodes, self.hosts.gone, resting)
        moved = [node for node in nodes if fresh.hosts[node] != self.binding.hosts[node]]
        self.bind(fresh)
        return moved

    async def start_router(self, environ: Mapping[str, str], closed: bool = False) -> None:
        """The front door begins, `closed` to everybody but us if that is wished. BackendRefused if its program cannot be run."""

        scope = Scope(self.run, self.plan, self.launch, self.binding)

        def hear(text: str) -> None:
            self.router.hear(0, text, self.now_s())

        self.router.begin(self.run, self.plan.digest)
        own = {name: scope.text(text, Reader()) for name, text in self.launch.router.environ.items()}
        argv = [*(scope.text(word, Reader()) for word in self.launch.router.argv), *(("--closed",) if closed else ())]
        child = await self.nursery.start(ROUTER, argv, self.run, {**environ, **own}, hear)
        self.children[ROUTER] = child
        child.watcher = asyncio.ensure_future(self._await_router(child))

    def watch_rank(self, rank: int, pid: int) -> None:
        """Notice the end of a process of this machine that is not our child: which rank of a world went first, only its pid can tell."""
        step = self.step_of[self.rank_record[rank].name].step
        child = self.children.get(step)
        if child is None or child.pid == pid:
            return
        with contextlib.suppress(OSError, AttributeError):  # no pidfd before Linux 5.3: then the step's own end has to do
            descriptor = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(descriptor, self._rank_gone, step, child, rank, descriptor)

    def _rank_gone(self, step: str, child: Child, rank: int, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if self.children.get(step) is child and not self.stopping:
            self._gone[step].append(rank)
            loop.call_later(GONE_S, self._step_ended, step, child, "its process is gone")

    def hear(self, row: Rank, text: str) -> None:
        """One line that a rank said."""
        self._blame(self.step_of[row.instance], text)
        self.records[row.instance].hear(row.instance_rank, text, self.now_s())
        self._changed(row.instance)

    def _hearer(self, start: Start) -> Callable[[str], None]:
        tasks = self.tasks[start.step]
        label = label_of(start.launcher)
        drawing: Optional[Rank] = None

        def hear(text: str) -> None:
            nonlocal drawing
            mark = label.match(text)
            number = int(mark.group(1)) if mark else 0
            if mark and number < len(tasks):
                drawing = tasks[number].row
                self.hear(drawing, text[mark.end() :])
            elif drawing and text.startswith("\r"):
                self.hear(drawing, text)  # its bar goes on without another mark
            else:
                # a line without a mark is the launcher's own word, unless there is only one who could have said it
                self._blame(start, text)
                self.records[start.instances[0]].hear(0 if len(tasks) == 1 else "-", text, self.now_s())
                self._changed(start.instances[0])

        return hear

    def _blame(self, start: Start, text: str) -> None:
        found = blame_of(start.launcher, text)
        if found is not None and self._blamed.get(start.step, (0, AFTERWARDS))[1] == AFTERWARDS:
            tasks = self.tasks[start.step]
            self._blamed[start.step] = tasks[min(found[0], len(tasks) - 1)].row.rank, found[1]

    async def _await_step(self, start: Start, child: Child) -> None:
        status = await child.settled()
        if len(self.tasks[start.step]) > 1:
            await asyncio.sleep(supervise.SETTLE_S)  # who failed first may stand in what a rank sent us by itself
        self._step_ended(start.step, child, supervise.said(status))

    def _step_ended(self, step: str, child: Child, how: str) -> None:
        """Write the end into the records of all its instances: the rank that went first is blamed, the others follow."""
        if self.stopping or self.children.get(step) is not child:
            return
        start = next(s for s in self.launch.starts if s.step == step)
        tasks = self.tasks[step]
        only = tasks[0].row.rank if len(tasks) == 1 else None
        first, told = self._blamed.get(step, (next(iter(self._gone[step]), only), ""))
        refused = next((self.records[n] for n in start.instances if self.records[n].refusal), None)
        blamed = refused or (self.rank_record[first] if first is not None else None)
        now = self.now_s()
        for name in start.instances:
            one = self.records[name]
            if one is blamed or blamed is None:
                own = first if first is not None and self.rank_record[first] is one else None
                one.end(self._sentence(one, own, told or how), now, _code(one), own, told or how)
            else:
                one.end(f"step {step} ended with {blamed.name}", now + 1)
            self._changed(name)

    def _sentence(self, one: Record, rank: Optional[int], how: str) -> str:
        if one.refusal:
            return f"refused: {one.refusal}"
        if rank is None:
            return how
        host = one.reports.get(rank, {}).get("host") or self.binding.hosts[self.plan.ranks[rank].node]
        return f"rank {self.plan.ranks[rank].instance_rank} on {host}: {how}"

    async def _await_router(self, child: Child) -> None:
        status = await child.settled()
        if self.children.get(ROUTER) is child and not self.stopping:
            self.router.end(supervise.said(status), self.now_s(), how=supervise.said(status))
            self._changed(ROUTER)

    # ---- stopping ---------------------------------------------------------------------------------------------------------

    async def stop(self, environ: Mapping[str, str], hasten: asyncio.Event, tell_remote: Callable[[], None]) -> None:
        """Everything ends: the router first, so that it can finish what it has in hand, then the workers; within drain and two graces."""
        self.stopping = True
        grace_s = self.launch.policy.grace_s
        if ROUTER in self.children:
            await self._end_router(self.children[ROUTER], environ, hasten)
        tell_remote()

        async def politely() -> None:
            living = processes.table()  # once for all: to look for a thousand steps one by one takes minutes
            for start in self.launch.starts:
                await self._ask_to_end(start, environ, living)

        await supervise.end(self._everyone, politely, grace_s, hasten)

    async def end_step(self, start: Start, environ: Mapping[str, str], hasten: asyncio.Event) -> None:
        """What is left of one step ends, grandchildren too; for a restart."""
        child = self.children.pop(start.step, None)
        if child is None:
            return
        life = environ[LIFE]

        def left() -> Set[int]:
            marks = [processes.marked([(LIFE, life), ("DISAGG_INSTANCE", name)]) for name in start.instances]
            return set().union(*marks) | ({child.pid} if child.alive else set())

        async def politely() -> None:
            processes.send(left() - {child.pid} if start.stop else left(), signal.SIGTERM)
            await self._run_stop(start.stop, environ)

        await supervise.end(left, politely, self.launch.policy.grace_s, hasten)

    async def _ask_to_end(self, start: Start, environ: Mapping[str, str], living: Mapping[int, processes.Process]) -> None:
        child = self.children.get(start.step)
        if child is None or not child.alive:
            return
        if start.stop:
            await self._run_stop(start.stop, environ)
            return
        # A signal to an mpirun makes it kill its ranks after a moment; a signal to each rank lets them end as they like
        ranks = [report["pid"] for name in start.instances for report in self.records[name].reports.values()]
        here = {pid for pid in ranks if processes.lives_below(pid, child.pid, living)}
        processes.send(here if len(here) == len(set(ranks)) > 0 else {child.pid}, signal.SIGTERM)

    async def _run_stop(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run a start's own way to end in order, if it has one; it works beside us, and what it does not end is killed later."""
        if argv:
            with contextlib.suppress(BackendRefused):
                await self.nursery.start("stop", argv, self.run, environ, lambda _: None)

    async def _end_router(self, child: Child, environ: Mapping[str, str], hasten: asyncio.Event) -> None:
        async def politely() -> None:
            if self.launch.router.stop:
                await self._run_stop(self.launch.router.stop, environ)
            elif child.alive:
                processes.send({child.pid}, signal.SIGTERM)

        def left() -> Set[int]:
            session = {pid for pid, p in processes.table().items() if p.session == child.pid and not p.zombie}
            return session | ({child.pid} if child.alive else set())

        # whoever was answered to the last moment of the drain has to hear that it is over, so it is not killed in that moment
        await supervise.end(left, politely, self.launch.router.drain_s + self.launch.policy.grace_s, hasten)

    def _everyone(self) -> Set[int]:
        return processes.descendants(os.getpid()) - self.spared


def _code(one: Record) -> int:
    """The exit status a death deserves: a missing program is the backend's refusal, anything else a dead worker."""
    return BackendRefused.exit_code if one.refusal and one.refusal_code == BackendRefused.exit_code else WorkerDied.exit_code
