"""Late-bound texts and rendered commands as words that a test can compare."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from disagg_launch import engines, place, routers, spec
from disagg_launch.launch import INSTANCE, NODE, Ref, Router, Text, Worker, bind
from disagg_launch.plan import Instance, Plan

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"


def planned(source: str | Path) -> tuple[spec.Spec, Plan]:
    """Spec and plan of a file, or of a text."""
    made = spec.load(source) if isinstance(source, Path) else spec.loads(source, "t.yaml")
    return made, place.place(made)


def worker(topology: spec.Spec, plan: Plan, name: str) -> Worker:
    """The worker of one instance."""
    return engines.load(topology.engine.name).worker(topology, plan, plan.instance(name))


def marked(ref: Ref) -> str:
    """A Ref as {what}, or {instance.what}; a port number as planned."""
    if ref.what in ("side_port", "front_port"):
        return ref.of
    return "{" + (f"{ref.of}.{ref.what}" if ref.of else ref.what) + "}"


def on_localhost(plan: Plan, own: Instance | None = None, host: str = "localhost") -> Callable[[Ref], str]:
    """Refs as they are bound when every node is `host`; what only a task knows stays marked."""

    def value(ref: Ref) -> str:
        if ref.what in ("side_port", "front_port"):
            return marked(ref)
        if ref.of == "router":
            return {"host": host, "port": str(plan.router["port"]), "url": f"{host}:{plan.router['port']}"}[ref.what]
        one = plan.instance(ref.of) if ref.of else own
        if one is None or ref.what not in ("host", "port", "url"):
            return marked(ref)
        return {"host": host, "port": str(one.port), "url": f"{host}:{one.port}"}[ref.what]

    return value


def words(texts: tuple[Text, ...], value: Callable[[Ref], str] = marked) -> list[str]:
    """The texts as plain words."""
    return [bind(text, value) for text in texts]


def visible(plan: Plan, made: Worker) -> str:
    """CUDA_VISIBLE_DEVICES of the worker's first task."""
    rows = plan.ranks_of(made.instance)
    seen = rows if made.visible == NODE or made.tasks == INSTANCE else rows[:1]
    return ",".join(str(row.gpu) for row in seen if row.node == rows[0].node)


def described(plan: Plan, made: Worker) -> str:
    """Everything about a worker as readable text: how many tasks, what each sees, environment, command."""
    lines = [f"## {made.instance}: one process per {made.tasks}, sees GPUs {visible(plan, made)}, world {made.world or 'any'}"]
    lines += [f"unset {name}" for name in made.unset]
    lines += [f"{name}={bind(text, marked)}" for name, text in made.environ.items()]
    lines.append(shlex.join(words(made.argv)))
    if made.followers:
        lines.append(f"further tasks also: {shlex.join(words(made.followers))}")
    return "\n".join(lines) + "\n"


def front_door(topology: spec.Spec, plan: Plan) -> tuple[Router, dict[str, Text]]:
    """The router and its files."""
    made, files = routers.router(topology, plan, "python3")
    return made, dict(files)
