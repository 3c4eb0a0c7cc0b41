"""Port numbers that nobody gave, settled between the runs that share hosts: each run holds a block of them there as long as it lives.

The numbers are cut into cells of CELL. On a host a cell belongs to whoever has bound its abstract socket, which the kernel takes back when
that process ends, however it ends; so there is no file to clean up, and users need no common folder. A run asks for the cells that its plan
needs, and where it does not get them, or a stranger listens on a port of the plan, for those one cell higher, and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import bootstrap
from disagg_launch.runtime.binding import ANYWHERE, Binding
from disagg_launch.runtime.processes import descendants

if TYPE_CHECKING:
    from disagg_launch.launch import Ports
    from disagg_launch.runtime.gateway import Gateway
    from disagg_launch.runtime.supervise import Child

CELL = 512
FIRST_CELL = 7936
"""Where cells are counted from: below the usual port 8000, so that an ordinary plan lies in few of them."""
END = 32768
"""Here begin the numbers that the kernel gives to outgoing connections."""
NAME = "\0disagg-launch.ports.{cell}"
LOOK_S = 0.05
END_S = 5.0


def cells(ports: Ports, up: int) -> List[int]:
    """The numbers of the cells that hold the plan's ports, raised by `up`."""
    return list(range((ports.first + up - FIRST_CELL) // CELL, (ports.last + up - FIRST_CELL) // CELL + 1))


def rises(ports: Ports) -> Iterator[int]:
    """By how much ports may be raised, in the order in which it is tried: 0, CELL, ... as long as all stay below END."""
    yield 0
    yield from range(CELL, END - ports.last, CELL)


class Holding:
    """The gateway's side: the steps that hold the cells on every host. `settle` once, `close` at the end."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._children: List[Child] = []
        self._inputs: List[int] = []
        self._answers: Dict[str, str] = {}
        self._said: List[str] = []

    async def settle(self) -> Binding:
        """The binding with ports that are this run's alone. BackendRefused when there are none, or the hosts do not answer."""
        gateway, ports = self._gateway, self._gateway.launch.ports
        before = gateway.fleet.binding
        if not ports.holds:
            return before
        refusal = ""
        for argv in ports.holds:
            await self._begin(argv)
        for up in rises(ports):
            bound = Binding(before.hosts, before.addresses, up * ports.workers, up * ports.router)
            why = await self._asked({"cells": cells(ports, up), "ports": self._wanted(bound)})
            if not why:
                if up:
                    gateway.board.note(f"ports are {up} higher than planned: {refusal}")
                return bound
            refusal = why
        raise BackendRefused(f"no port numbers are free for this run on all of its hosts ({refusal}): give `port` and cluster.base_port")

    async def close(self) -> None:
        """Let go of them; the steps end when nobody can ask them any more."""
        for descriptor in self._inputs:
            os.close(descriptor)
        ending = [child.ended for child in self._children if child.alive]
        if ending:
            await asyncio.wait(ending, timeout=END_S)
        self._inputs, self._children = [], []

    def processes(self) -> set[int]:
        """The pids of the steps on this machine."""
        return {pid for child in self._children if child.alive for pid in (child.pid, *descendants(child.pid))}

    async def _begin(self, argv: tuple[str, ...]) -> None:
        asked, asking = os.pipe()
        self._inputs.append(asking)
        try:
            nursery = self._gateway.fleet.nursery
            self._children.append(await nursery.start("ports", argv, self._gateway.run, self._gateway.environ(), self._hear, asked))
        finally:
            os.close(asked)

    async def _asked(self, wish: Dict[str, Any]) -> str:
        """Why some host does not have what is wished for; "" when all have it, and hold it from now on."""
        self._answers.clear()
        line = json.dumps(wish).encode() + b"\n"
        for descriptor in self._inputs:
            with contextlib.suppress(BrokenPipeError):  # a step that has ended is noticed below
                os.write(descriptor, line)
        gateway, hosts = self._gateway, set(self._gateway.fleet.binding.hosts)
        deadline = gateway.loop.time() + gateway.launch.readiness.limit_s
        while not hosts <= set(self._answers):
            if gateway.signals or gateway.asked_to_stop:
                raise BackendRefused("it was told to end before its ports were settled")
            if gateway.loop.time() > deadline or not all(child.alive for child in self._children):
                missing = ", ".join(sorted(hosts - set(self._answers)))
                raise BackendRefused(f"{missing} did not say which ports are free: " + "; ".join(self._said[-3:] or ["no answer"]))
            await asyncio.sleep(LOOK_S)
        return next((f"on {host} {why}" for host, why in sorted(self._answers.items()) if why), "")

    def _hear(self, text: str) -> None:
        try:
            told = json.loads(text)
            self._answers[told["host"]] = told["why"]
        except (ValueError, KeyError, TypeError):
            self._said.append(text)

    def _wanted(self, bound: Binding) -> Dict[str, List[int]]:
        """The ports on which somebody of this run will listen, by host; about those that were given nothing is asked."""
        ports, router = self._gateway.launch.ports, self._gateway.launch.router
        front = [router.port, *([router.admin_port] if router.admin_rises else [])]
        out: Dict[str, List[int]] = {bound.hosts[router.node]: [port + bound.front_up for port in front]} if ports.router else {}
        for one in self._gateway.plan.instances if ports.workers else ():
            out.setdefault(bound.hosts[one.nodes[0]], []).append(one.port + bound.side_up)
        return out


def main() -> int:
    """The hosts' side: each line of standard input is a wish, answered by a line; what is got is held until the next, or the input ends."""
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    held: List[socket.socket] = []
    for line in iter(sys.stdin.readline, ""):
        wish = json.loads(line)
        for one in held:
            one.close()
        held, why = claim(wish["cells"], wish["ports"].get(host, []))
        print(json.dumps({"host": host, "why": why}), flush=True)
    return 0


def claim(wanted: List[int], ports: List[int]) -> tuple[List[socket.socket], str]:
    """Sockets that hold these cells on this host, and ""; or none, and why not."""
    held: List[socket.socket] = []
    why = next((f"port {port} is taken ({taken})" for port in ports if (taken := bootstrap.listener(ANYWHERE[0], port))), "")
    for cell in wanted if not why else ():
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        held.append(mark)
        try:
            mark.bind(NAME.format(cell=cell))
        except OSError:
            first = FIRST_CELL + cell * CELL
            why = f"ports {first} to {first + CELL - 1} are another run's"
            break
    if why:
        for mark in held:
            mark.close()
        held = []
    return held, why
