"""Node numbers to host names, and the late-bound texts of launch.json to plain ones. Pure except for reading the file."""

from __future__ import annotations

import json
import os

from disagg_launch.errors import BackendRefused, BadInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping, Optional, Union

    from disagg_launch.launch import Launch, Ref
    from disagg_launch.plan import Plan
    from disagg_launch.runtime.tasks import Task

ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  (compared with, never bound)
LOOPBACK = "127.0.0.1"


class Binding:
    """By node number: `hosts`, the names nodes call themselves, and `addresses`, what other nodes reach them by.

    `side_up`, `front_up`: by how much the ports of workers and front door are higher than planned.
    """

    def __init__(self, hosts: Iterable[str], addresses: Iterable[str], side_up: int = 0, front_up: int = 0) -> None:
        self.hosts, self.addresses = tuple(hosts), tuple(addresses)
        self.side_up, self.front_up = side_up, front_up


class Reader:
    """Who reads a late-bound text: a task with its numbers and visible GPUs, or nobody (a file of the whole run)."""

    def __init__(self, task: Optional[Task] = None, numbers: Optional[Mapping[str, int]] = None, gpus: tuple[str, ...] = ()) -> None:
        self.task, self.numbers, self.gpus = task, numbers or {}, gpus


def bound(plan: Plan, hosts: tuple[str, ...], addresses: tuple[str, ...] = ()) -> Binding:
    """The binding of the plan's nodes to `hosts`. BadInput when there are fewer hosts than nodes; further ones are spare."""
    if len(hosts) < plan.node_count:
        raise BadInput(f"the plan needs {plan.node_count} nodes, {len(hosts)} hosts were given ({', '.join(hosts)}): give all of them")
    if addresses and len(addresses) != len(hosts):
        raise BadInput(f"{len(hosts)} hosts but {len(addresses)} addresses were given: give one address for each host")
    return Binding(hosts, addresses or hosts)


def on_this_machine(plan: Plan) -> Binding:
    """Every node of the plan is this machine."""
    return bound(plan, (LOOPBACK,) * max(1, plan.node_count))


def extended(binding: Binding, node_count: int) -> Binding:
    """The binding with at least `node_count` hosts. On one machine there are always more; elsewhere BackendRefused."""
    missing = node_count - len(binding.hosts)
    if missing <= 0:
        return binding
    if set(binding.addresses) != {LOOPBACK}:
        raise BackendRefused(f"{node_count} nodes are needed, there are {len(binding.hosts)}: ask for more with cluster.spare_nodes")
    more = (LOOPBACK,) * missing
    return Binding(binding.hosts + more, binding.addresses + more, binding.side_up, binding.front_up)


def to_json(binding: Binding) -> str:
    """binding.json."""
    return json.dumps(vars(binding), indent=1) + "\n"


def load(run: str) -> Optional[Binding]:
    """The binding in the run folder; None if no gateway has written one."""
    try:
        with open(os.path.join(run, "binding.json"), encoding="utf-8") as file:
            raw = json.load(file)
    except FileNotFoundError:
        return None
    return Binding(**raw)


class Scope:
    """Everything that a late-bound text can speak of, but its reader."""

    def __init__(self, run: str, plan: Plan, launch: Launch, binding: Binding) -> None:
        self.run, self.plan, self.launch, self.binding = run, plan, launch, binding

    def text(self, parts: Iterable[Union[str, Ref]], reader: Reader) -> str:
        """The parts of a text joined, each Ref replaced by its value. A plain string is its own parts."""
        return "".join(part if isinstance(part, str) else self.value(part, reader) for part in parts)

    def value(self, ref: Ref, reader: Reader) -> str:
        """The text that stands for `ref`. BadInput when its reader has no such thing (a rank in a file of the whole run)."""
        if ref.what == "run":
            return self.run
        if ref.what == "side_port":
            return str(int(ref.of) + self.binding.side_up)
        if ref.what == "front_port":
            return str(int(ref.of) + self.binding.front_up)
        if ref.of == "router":
            host, port = router_host(self.launch, self.binding), self.launch.router.port + self.binding.front_up
            return {"host": host, "port": str(port), "url": f"{host}:{port}", "name": "router"}[ref.what]
        if ref.of.startswith("@"):
            return self.binding.addresses[int(ref.of[1:])]
        if ref.what == "address" and reader.task:
            return self.binding.addresses[reader.task.row.node]
        if ref.of:
            instance = self.plan.instance(ref.of)
        elif reader.task:
            instance = reader.task.instance
        else:
            raise BadInput(f"the place holder {ref.what!r} stands in a text that belongs to no instance: name the instance it is of")
        host, port = self.binding.addresses[instance.nodes[0]], instance.port + self.binding.side_up
        shared = {"host": host, "port": str(port), "url": f"{host}:{port}", "name": instance.name}
        shared.update(role=instance.role, size=str(instance.size), node_count=str(len(instance.nodes)))
        return shared[ref.what] if ref.what in shared else _own(ref, reader)


def _own(ref: Ref, reader: Reader) -> str:
    if reader.task is None or (ref.of and ref.of != reader.task.instance.name):
        raise BadInput(f"the place holder {ref.what!r} is of one task, and no task of {ref.of!r} reads it: leave its instance empty")
    if ref.what == "gpus":
        return ",".join(reader.gpus)
    return str(reader.numbers[ref.what] if ref.what in reader.numbers else getattr(reader.task.row, ref.what))


def router_host(launch: Launch, binding: Binding) -> str:
    """The name by which the router is reached: its own, or its node's address when it listens everywhere."""
    return binding.addresses[launch.router.node] if launch.router.host in ANYWHERE else launch.router.host
