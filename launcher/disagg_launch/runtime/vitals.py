"""Looks, while somebody is not up yet, at what the processes use: here in /proc, on other nodes through the workers' companions."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Set, Tuple

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import processes, record
from disagg_launch.runtime.desk import Message
from disagg_launch.runtime.progress import Figures
from disagg_launch.runtime.pulse import Gpus, Pulse
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.scribe import FILES

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

PULSE_S = 2.0
LOOKS_PER_STALL = 20
STACKS_S = 15.0


class Vitals:
    """Feeds every late record's progress. `heard` is told what companions answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._gpus = Gpus()
        self._pulses: Dict[Tuple[str, int], Pulse] = {}
        self._stacks: Dict[Tuple[str, str], List[str]] = {}

    async def watch(self) -> None:
        """Until the end; it costs nothing when all are up."""
        stall_s = self._gateway.launch.readiness.stall_s
        while not self._fleet.stopping:
            late = [one for one in self._fleet.records.values() if one.reports and not one.is_up and not one.ended]
            if late:
                self._look_here(late)
                for one in late:
                    if one.far:
                        self._gateway.desk.tell_leases({"pulse": True}, one.name)
            else:
                self._pulses.clear()
            await asyncio.sleep(min(PULSE_S, stall_s / LOOKS_PER_STALL))

    def _look_here(self, late: Sequence[Record]) -> None:
        now_s = self._fleet.now_s()
        near = [(one, rank) for one in late if not one.far for rank in one.reports if one.speaker(rank) == rank]
        ours = {one.reports[rank]["pid"]: (one, rank) for one, rank in near}
        for pid, family in processes.families(ours).items():
            one, rank = ours[pid]
            pulse = self._pulses.setdefault((one.name, pid), Pulse(self._gpus))
            one.progress.measured(rank, pulse.measure(family), now_s)

    def heard(self, lease: Message, message: Message) -> None:
        """What a companion has answered over its lease; nonsense is not listened to."""
        one = self._fleet.records.get(lease["instance"])
        if one is None:
            return
        if isinstance(message.get("figures"), dict):
            try:
                one.progress.measured(lease["host"], Figures.from_wire(message["figures"]), self._fleet.now_s())
            except (KeyError, TypeError, ValueError):
                return
        elif isinstance(message.get("samples"), list):
            self._stacks[one.name, lease["host"]] = [str(line) for line in message["samples"]]

    async def stacks(self, names: Sequence[str]) -> None:
        """Write logs/NAME.stacks for each of these: where its processes are. Bounded by STACKS_S."""
        ones = [self._fleet.records[name] for name in names if name in self._fleet.records and self._fleet.records[name].reports]
        await asyncio.gather(*(self._sample(one) for one in ones))
        for one in ones:
            self._gateway.board.note(f"where {one.name} is stuck: logs/{one.name}.stacks")

    async def _sample(self, one: Record) -> None:
        ask = next((w.stacks for w in self._gateway.launch.workers if w.instance == one.name), "")
        lines = await (self._sample_far(one, ask) if one.far else self._sample_here(one, ask))
        path = os.path.join(self._gateway.run, "logs", f"{one.name}.stacks")
        head = f"# {one.name} start {one.starts} at {record.timestamp()}"
        FILES.append(path, "\n".join([head, *lines, ""]), 0o600)

    async def _sample_here(self, one: Record, ask: str) -> List[str]:
        """In a process of its own: py-spy takes its time, and everybody else is to be heard meanwhile."""
        lines: List[str] = []
        pids = set().union(*processes.families({report["pid"] for report in one.reports.values()}).values())
        argv = [*processes.own_command(), "stacks", f"--ask={ask}", *map(str, sorted(pids))]
        try:
            child = await self._fleet.nursery.start("stacks", argv, self._gateway.run, os.environ, lines.append)
            await asyncio.wait_for(child.settled(), STACKS_S)
        except (BackendRefused, asyncio.TimeoutError) as problem:
            lines.append(f"no stacks: {problem or f'they took more than {STACKS_S:g} s'}")
        return lines

    async def _sample_far(self, one: Record, ask: str) -> List[str]:
        hosts: Set[str] = {report["host"] for report in one.reports.values()}
        for host in hosts:
            self._stacks.pop((one.name, host), None)
        self._gateway.desk.tell_leases({"stacks": ask}, one.name)
        deadline = self._fleet.now_s() + STACKS_S
        while self._fleet.now_s() < deadline and not all((one.name, host) in self._stacks for host in hosts):
            await asyncio.sleep(processes.POLL_S)
        found: Dict[str, Any] = {host: self._stacks.get((one.name, host), ["no answer from its companion"]) for host in sorted(hosts)}
        return [line for host, lines in found.items() for line in (f"on {host}:", *lines)]
