"""What runs in a worker: one module per engine, chosen by the spec's `engine.name`.

An engine module offers, all pure:

- `NAME`, and `WIRE`: the dialect its workers speak with a router ("trtllm", "vllm", "sglang" or "plain");
- `JOINS`: how its workers make themselves known to a cluster: "itself" (with the cluster's token), "openly" (it cannot send one), or
  "" (it cannot: a companion process does it);
- `KNOWN_KEYS`: the engine keys it is known to understand; another one is a warning, with "did you mean" (None: any key may be right);
  `KNOWN_AS`: whose keys those are, its name and, where they were read from a release, that release;
- `worker(spec, plan, instance) -> launch.Worker`: the command of one instance's tasks;
- `files(spec, plan) -> {path in the run folder: launch.Text}`: its configuration files;
- `prepare(spec) -> (File, ...)`: scripts that are run by hand, once, before the first start;
- `check(spec, plan) -> complaints`: what the engine cannot do, and what was added for it, each at its place in the topology file.

An engine that brings a front door offers `router(spec, plan) -> (launch.Router, files)` too; `spec.router.name` asks for it.

To add an engine: write the module, and name it in spec.maps.EngineName. Where its starts are long, startup.START_S says so; where a router
speaks its dialect, lint.rules.running.SPEAKS does. Its page is in docs/engines/.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Optional, Protocol, cast, get_args

from disagg_launch.spec.maps import EngineName

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.launch import Text, Worker
    from disagg_launch.plan import Instance, Plan
    from disagg_launch.spec import Complaint, Spec

ENGINES: tuple[str, ...] = get_args(EngineName)


class Engine(Protocol):
    """What an engine module looks like."""

    NAME: str
    WIRE: str
    JOINS: str
    KNOWN_KEYS: Optional[frozenset[str]]
    KNOWN_AS: str

    def worker(self, spec: Spec, plan: Plan, instance: Instance) -> Worker:
        """The command of one instance's tasks."""

    def files(self, spec: Spec, plan: Plan) -> Mapping[str, Text]:
        """The engine's configuration files by path in the run folder."""

    def prepare(self, spec: Spec) -> tuple[File, ...]:
        """Scripts to be run once, before the first start."""

    def check(self, spec: Spec, plan: Plan) -> Iterable[Complaint]:
        """What the engine cannot do, and what was added for it."""


def check(spec: Spec, plan: Plan) -> tuple[Complaint, ...]:
    """What the spec's engine says about its own plan; nothing for servers that run already."""
    return tuple(load(spec.engine.name).check(spec, plan)) if plan.instances else ()


def load(name: str) -> Engine:
    """The engine module called `name`, one of ENGINES; KeyError otherwise."""
    if name not in ENGINES:
        raise KeyError(name)
    return cast(Engine, importlib.import_module(f"disagg_launch.engines.{name}"))
