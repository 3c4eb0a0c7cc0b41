"""Node numbers to host names, and the late-bound texts of launch.json to plain ones. Pure except for reading the file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from disagg_launch.errors import BadInput
from disagg_launch.launch import Launch, Ref
from disagg_launch.plan import Plan, Rank
from disagg_launch.runtime.tasks import Task

ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104  (compared with, never bound)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Binding:
    """By node number: `hosts`, the names nodes call themselves, and `addresses`, what other nodes reach them by."""

    hosts: Tuple[str, ...]
    addresses: Tuple[str, ...]


def bound(plan: Plan, hosts: Tuple[str, ...], addresses: Tuple[str, ...] = ()) -> Binding:
    """The binding of the plan's nodes to `hosts`. BadInput when there are fewer hosts than nodes; further ones are spare."""
    if len(hosts) < plan.node_count:
        raise BadInput(f"the plan needs {plan.node_count} nodes, {len(hosts)} hosts were given ({', '.join(hosts)}): give all of them")
    if addresses and len(addresses) != len(hosts):
        raise BadInput(f"{len(hosts)} hosts but {len(addresses)} addresses were given: give one address for each host")
    return Binding(hosts, addresses or hosts)


def on_this_machine(plan: Plan) -> Binding:
    """Every node of the plan is this machine."""
    return bound(plan, (LOOPBACK,) * max(1, plan.node_count))


def to_json(binding: Binding) -> str:
    """binding.json."""
    return json.dumps({"hosts": binding.hosts, "addresses": binding.addresses}, indent=1) + "\n"


def load(run: str) -> Optional[Binding]:
    """The binding in the run folder; None if no gateway has written one."""
    try:
        with open(os.path.join(run, "binding.json"), encoding="utf-8") as file:
            raw = json.load(file)
    except FileNotFoundError:
        return None
    return Binding(tuple(raw["hosts"]), tuple(raw["addresses"]))


@dataclass(frozen=True)
class Reader:
    """Who reads a late-bound text: a task with its numbers and visible GPUs, or nobody (a file of the whole run)."""

    task: Optional[Task] = None
    numbers: Optional[Mapping[str, int]] = None
    gpus: Tuple[str, ...] = ()


def value_of(ref: Ref, plan: Plan, launch: Launch, binding: Binding, run: str, reader: Reader) -> str:
    """The text that stands for `ref`. BadInput when its reader has no such thing (a rank in a file of the whole run)."""
    if ref.what == "run":
        return run
    if ref.of == "router":
        host = router_host(launch, binding)
        return {"host": host, "port": str(launch.router.port), "url": f"{host}:{launch.router.port}", "name": "router"}[ref.what]
    if ref.of.startswith("@"):
        return binding.addresses[int(ref.of[1:])]
    if not ref.of and reader.task is None:
        raise BadInput(f"the place holder {ref.what!r} stands in a text that belongs to no instance: name the instance it is of")
    if ref.what == "address" and reader.task is not None:
        return binding.addresses[reader.task.row.node]
    instance = plan.instance(ref.of) if ref.of else reader.task.instance  # type: ignore[union-attr]
    host = binding.addresses[instance.nodes[0]]
    shared = {"host": host, "port": str(instance.port), "url": f"{host}:{instance.port}", "name": instance.name}
    shared.update(role=instance.role, size=str(instance.size), node_count=str(len(instance.nodes)))
    return shared[ref.what] if ref.what in shared else _own(ref, reader)


def _own(ref: Ref, reader: Reader) -> str:
    if reader.task is None or (ref.of and ref.of != reader.task.instance.name):
        raise BadInput(f"the place holder {ref.what!r} is of one task, and no task of {ref.of!r} reads it: leave its instance empty")
    if ref.what == "gpus":
        return ",".join(reader.gpus)
    if reader.numbers and ref.what in reader.numbers:
        return str(reader.numbers[ref.what])
    row: Rank = reader.task.row
    return str(getattr(row, ref.what))


def router_host(launch: Launch, binding: Binding) -> str:
    """The name by which the router is reached: its own, or its node's address when it listens everywhere."""
    return binding.addresses[launch.router.node] if launch.router.host in ANYWHERE else launch.router.host
