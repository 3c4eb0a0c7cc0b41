"""Joins and leaves in any order, against a model: a real store, a real fleet that probes real ports, and who may be given requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from disagg_launch.discovery.members import GRACE, Members
from disagg_launch.discovery.memory import Memory
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router.config import Config, FrontDoor, Role
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.workers import State, Table
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime.cluster import Cluster, Member

SILENT_S = 4.0
SETTLE_S = 3.0
CLUSTER = Cluster("http://here:1", "t", inactive_s=SILENT_S)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Healthy(asyncio.Protocol):
    """One connection on which every request is answered 200."""

    def __init__(self, known: set[asyncio.Transport]) -> None:
        self._known = known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._known.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(OK * data.count(b"\r\n\r\n"))

    def connection_lost(self, problem: Exception | None) -> None:
        self._known.discard(self._transport)


class Worker:
    """A port that answers 200 to everything, and its entry."""

    def __init__(self, number: int, role: str) -> None:
        self.number, self.role = number, role
        self._connections: set[asyncio.Transport] = set()

    async def open(self) -> None:
        """Answer, on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Healthy(self._connections), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Answer no more."""
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    @property
    def key(self) -> str:
        return f"{CLUSTER.prefix}/{self.number}"

    @property
    def place(self) -> tuple[str, str]:
        return self.role, f"127.0.0.1:{self.port}"

    def enter(self, store: Memory) -> None:
        """Register, over whatever is there."""
        value = Member(str(self.number), "127.0.0.1", self.port, self.role).to_json()
        store.set(self.key, value, SILENT_S, overwrite=True)


class JoinsAndLeaves(RuleBasedStateMachine):
    """`usable`: the workers that have to be given requests, by role and url."""

    workers = Bundle("workers")
    late = Bundle("late")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock_s = 0.0
        self.numbers = 0
        self.everybody: list[Worker] = []
        self.silent_since: dict[int, float] = {}
        self.usable: set[tuple[str, str]] = set()
        self.run(self._begin())

    async def _begin(self) -> None:
        door = FrontDoor(health_interval_s=0.02, health_timeout_s=1.0, connect_timeout_s=1.0)
        config = Config("127.0.0.1", 1, {CONTEXT: Role(()), GENERATION: Role(())}, front_door=door, cluster=CLUSTER)
        self.fleet = Fleet(config, Table(0), lambda worker: None)
        self.store = Memory(lambda: self.clock_s)
        self.members = Members(self.fleet, clusters.member, SILENT_S, lambda: self.clock_s)
        self.store.watch(CLUSTER.prefix, self.members.hear)
        await self.fleet.start()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        async def end() -> None:
            await self.fleet.stop()
            for worker in self.everybody:
                await worker.close()

        self.run(end())
        self.loop.close()

    def enter(self, worker: Worker) -> None:
        """The worker registers (again)."""
        worker.enter(self.store)
        self.silent_since.pop(worker.number, None)

    def act(self, do: Callable[[], Any]) -> None:
        """Have something done inside the event loop, where the fleet lives."""

        async def inside() -> None:
            do()

        self.run(inside())

    def until(self, true: Callable[[], bool], what: str) -> None:
        async def wait() -> None:
            deadline = self.loop.time() + SETTLE_S
            while not true():
                assert self.loop.time() < deadline, f"{what}: {self.seen()} instead of {self.usable}"
                self.members.look()
                await asyncio.sleep(0.005)

        self.run(wait())

    def seen(self) -> set[tuple[str, str]]:
        return {w.place for w in self.everybody if (found := self.fleet.table.by_url.get(w.place)) and found.state is State.READY}

    def pass_time(self, seconds: float, beating: set[int]) -> None:
        """Time passes in which only `beating` refresh their entries."""

        def one_second() -> None:
            self.clock_s += 1
            for worker in self.everybody:
                if worker.number in beating:
                    self.store.expire(worker.key, SILENT_S)
            self.store.sweep()
            self.members.look()
            for worker in self.everybody:
                if self.store.get(worker.key) is None:
                    since = self.silent_since.setdefault(worker.number, self.clock_s)
                    if self.clock_s - since > GRACE * SILENT_S:
                        self.usable.discard(worker.place)

        for _ in range(int(seconds)):
            self.act(one_second)

    def listed(self) -> set[int]:
        return {w.number for w in self.everybody if self.store.get(w.key) is not None}

    @rule(target=workers, role=st.sampled_from([CONTEXT, GENERATION]))
    def join(self, role: str) -> Worker:
        worker = Worker(self.numbers, role)
        self.numbers += 1
        self.everybody.append(worker)
        self.run(worker.open())
        self.act(lambda: self.enter(worker))
        self.usable.add(worker.place)
        return worker

    @rule(worker=consumes(workers))
    def leave(self, worker: Worker) -> None:
        self.act(lambda: self.store.delete(worker.key))
        self.usable.discard(worker.place)

    @rule(worker=consumes(workers))
    def crash(self, worker: Worker) -> None:
        self.run(worker.close())
        self.usable.discard(worker.place)
        self.pass_time(SILENT_S + 1, self.listed() - {worker.number})

    @rule(target=late, worker=consumes(workers))
    def miss_heartbeats(self, worker: Worker) -> Worker:
        self.pass_time(SILENT_S + 1, self.listed() - {worker.number})
        return worker

    @rule(target=workers, worker=consumes(late))
    def register_again(self, worker: Worker) -> Worker | Any:
        if worker.place not in self.usable:
            return multiple()
        self.act(lambda: self.enter(worker))
        return worker

    @rule()
    def forgotten_by_the_storage(self) -> None:
        """Everybody's entry expires at once, and everybody who is there comes back."""
        there = self.listed()
        self.pass_time(SILENT_S + 1, set())
        for worker in self.everybody:
            if worker.number in there:
                self.act(lambda worker=worker: self.enter(worker))  # type: ignore[misc]

    @rule()
    def a_long_time_passes(self) -> None:
        """Whoever is late for longer than the grace is out."""
        self.pass_time(GRACE * SILENT_S + 2, self.listed())

    @invariant()
    def who_is_usable_is_who_should_be(self) -> None:
        if hasattr(self, "usable"):
            self.until(lambda: self.seen() == self.usable, "usable workers")


JoinsAndLeaves.TestCase.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestJoinsAndLeaves = JoinsAndLeaves.TestCase


def test_several_who_fall_silent_together_all_leave() -> None:
    """As when a node is lost: a look that judges more than one of them must come to its end."""
    machine = JoinsAndLeaves()
    machine.begin()
    try:
        lost = [machine.join(role) for role in (CONTEXT, CONTEXT, GENERATION)]
        kept = machine.join(GENERATION)
        machine.who_is_usable_is_who_should_be()

        async def all_end_at_once() -> None:
            for worker in lost:
                await worker.close()
            while any(machine.fleet.table.by_url[worker.place].state is not State.GONE for worker in lost):
                await asyncio.sleep(0.01)
            for _ in range(int(SILENT_S) + 1):
                machine.clock_s += 1
                machine.store.expire(kept.key, SILENT_S)
            machine.store.sweep()
            machine.members.look()

        machine.run(all_end_at_once())
        assert set(machine.fleet.table.by_url) == {kept.place}
    finally:
        machine.teardown()


def test_who_was_taken_out_by_the_gateway_while_leaving_takes_nobody_along() -> None:
    """As when an instance is moved, and another one comes up at its address before its last request has ended."""
    machine = JoinsAndLeaves()
    machine.begin()
    try:
        worker = machine.join(GENERATION)
        machine.who_is_usable_is_who_should_be()
        before = machine.fleet.table.by_url[worker.place]

        async def leaves_and_is_removed() -> None:
            before.take(0)
            machine.store.delete(worker.key)
            machine.fleet.remove(before)
            worker.enter(machine.store)
            before.give_back(0)

        machine.run(leaves_and_is_removed())
        machine.who_is_usable_is_who_should_be()
        assert machine.fleet.table.by_url[worker.place] is not before
    finally:
        machine.teardown()
