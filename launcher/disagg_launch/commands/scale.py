"""`scale`, `restart`, `upgrade`, `remove`: change a deployment while it serves."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from disagg_launch.commands.run import LATEST, run_folder
from disagg_launch.errors import BackendRefused, BadInput, NotReady

if TYPE_CHECKING:
    from disagg_launch.launch import Launch
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

POLL_S = 0.2

INSTANCE = re.compile(r"(ctx|gen)\d+")
drain_option = click.option("--drain", "drain_s", type=float, default=60, show_default=True, help="Seconds that requests under way get.")


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] WISHES...")
@drain_option
def scale(words: tuple[str, ...], drain_s: float) -> None:
    """Change how many instances of RUN [default: the latest] there are: gen=+1, ctx=3, gen=-2. Comes back when it is so.

    Nobody who runs moves. New instances are given requests when they are healthy; those that go finish what they have.
    """
    from disagg_launch.discovery import growth

    run, wishes = _run_and(words, lambda word: "=" in word)
    spec, plan, launch = _deployment(run, None)
    resting = set(_ask(run, {"kind": "progress"})["resting"])
    running = {role: sum(i.role == role and i.name not in resting for i in plan.instances) for role in growth.ROLES}
    change = growth.change(spec, plan, resting, growth.wishes(wishes, running))
    _print_difference(plan, change.plan, change.starts, change.stops)
    if change.starts or change.stops:
        counts = {role: sum(i.role == role for i in change.plan.instances) for role in growth.ROLES}
        files = _rendered(growth.resized(spec, plan, counts), change.plan, launch)
        _carry_out(run, files, {"starts": change.starts, "stops": change.stops, "replaces": (), "drain_s": drain_s})


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] INSTANCES...")
@drain_option
def restart(words: tuple[str, ...], drain_s: float) -> None:
    """Restart INSTANCES (ctx0, gen1) of RUN [default: the latest] in turn: drained, stopped, started, healthy, then the next."""
    run, instances = _run_and(words, INSTANCE.fullmatch)
    spec, plan, launch = _deployment(run, None)
    _replace_in_turn(run, spec, plan, launch, _known(plan, instances), drain_s)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] SPEC")
@drain_option
def upgrade(words: tuple[str, ...], drain_s: float) -> None:
    """Replace all instances of RUN [default: the latest] by those of SPEC (another model, other keys), one by one, in their places."""
    if len(words) > 2:
        raise BadInput(f"found {len(words)} words, needed SPEC, or RUN and SPEC")
    run = run_folder(words[0]) if len(words) == 2 else LATEST
    topology, plan, launch = _deployment(run, pathlib.Path(words[-1]))
    resting = set(_ask(run, {"kind": "progress"})["resting"])
    _replace_in_turn(run, topology, plan, launch, [i.name for i in plan.instances if i.name not in resting], drain_s)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] INSTANCES...")
@drain_option
def remove(words: tuple[str, ...], drain_s: float) -> None:
    """Take INSTANCES out of RUN [default: the latest]: no new requests, gone from the front door and the metadata server, stopped."""
    from disagg_launch.discovery import growth

    run, instances = _run_and(words, INSTANCE.fullmatch)
    spec, plan, launch = _deployment(run, None)
    names = _known(plan, instances)
    resting = {*_ask(run, {"kind": "progress"})["resting"], *names}
    for role in growth.ROLES:
        growth.check(spec, role, sum(i.role == role and i.name not in resting for i in plan.instances))
    _carry_out(run, _rendered(_same_size(spec, plan), plan, launch), {"starts": (), "stops": names, "replaces": (), "drain_s": drain_s})


def _run_and(words: Sequence[str], is_other: Callable[[str], object]) -> tuple[pathlib.Path, tuple[str, ...]]:
    """The run folder, the first word unless `is_other`, and the other words, of which there must be one."""
    run, rest = (LATEST, tuple(words)) if is_other(words[0]) else (run_folder(words[0]), tuple(words[1:]))
    if not rest:
        raise BadInput(f"{words[0]}: found only that; say what to change, such as gen=+1 or gen1")
    return run, rest


def _replace_in_turn(run: pathlib.Path, spec: Spec, plan: Plan, launch: Launch, names: Sequence[str], drain_s: float) -> None:
    for role in {plan.instance(name).role for name in names}:
        if sum(i.role == role for i in plan.instances) == 1:
            click.echo(f"there is only one {role} instance: requests wait until it is back", err=True)
    _carry_out(run, _rendered(_same_size(spec, plan), plan, launch), {"starts": (), "stops": (), "replaces": names, "drain_s": drain_s})


def _deployment(run: pathlib.Path, spec: pathlib.Path | None) -> tuple[Spec, Plan, Launch]:
    """The topology (another one's, if `spec` is given), plan and launch of a run folder. BadInput if it is none that can change."""
    from disagg_launch import launch as launches
    from disagg_launch import plan as plans
    from disagg_launch import spec as specs

    try:
        plan = plans.from_json((run / "plan.json").read_text(encoding="utf-8"))
        launch = launches.from_json((run / "launch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise BadInput(f"{run}: no run folder ({wrong}); name the one of a running deployment") from None
    topology = specs.load(spec or run / "spec.yaml")
    if topology.router.name != "builtin" and topology.disagg_cluster is None:
        raise BadInput(f"router.name {topology.router.name}: its list of servers is fixed; use the router `builtin` or a `disagg_cluster`")
    if len(launch.starts) != len(plan.instances):
        raise BadInput(f"{run}: all instances are one step; only a deployment with one step per instance can change")
    return topology, plan, launch


def _same_size(spec: Spec, plan: Plan) -> Spec:
    """The spec with the plan's counts; BadInput if its instances have another shape."""
    from disagg_launch.discovery import growth

    for one in plan.instances:
        if spec.section(one.role).size != one.size:
            raise BadInput(
                f"{one.name} has {one.size} ranks, the file wants {spec.section(one.role).size}: start another deployment for that"
            )
    return growth.resized(spec, plan, {role: sum(i.role == role for i in plan.instances) for role in growth.ROLES})


def _known(plan: Plan, names: Sequence[str]) -> list[str]:
    there = [one.name for one in plan.instances]
    for name in names:
        if name not in there:
            raise BadInput(f"{name}: no such instance; there are {', '.join(there)}")
    return list(dict.fromkeys(names))


def _rendered(spec: Spec, plan: Plan, launch: Launch) -> list[Any]:
    """The run folder's files for a plan, but for the program that runs there already."""
    from disagg_launch import render

    python = "python3" if launch.backend == "slurm" else sys.executable
    return [one for one in render.render(spec, plan, launch.backend, python) if one.path != "runtime.pyz"]


def _carry_out(run: pathlib.Path, files: Sequence[Any], change: dict[str, Any]) -> None:
    """Put the files beside the run folder's, have the gateway do it, and wait. NotReady when some of it failed."""
    fresh = run / "state" / f"change.{os.getpid()}"
    for one in files:
        path = fresh / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.text if isinstance(one.text, bytes) else one.text.encode())
        path.chmod(one.mode)
    answer = _ask(run, {"kind": "change", "folder": fresh.name, **change})
    if "refused" in answer:
        raise BackendRefused(f"the gateway refused: {answer['refused']}")
    while (now := _ask(run, {"kind": "progress"}))["busy"]:
        time.sleep(POLL_S)
    if now["problems"]:
        raise NotReady("\n".join(now["problems"]))


def _ask(run: pathlib.Path, message: dict[str, Any]) -> dict[str, Any]:
    from disagg_launch.runtime import folder

    found: dict[str, Any] = folder.call(str(run.resolve()), json.loads(json.dumps(message)))
    return found


def _print_difference(before: Plan, after: Plan, starts: Sequence[str], stops: Sequence[str]) -> None:
    from disagg_launch.layouts.difference import lines
    from disagg_launch.place.diff import compare

    for line in lines(before, after, compare(before, after)):
        click.echo(line)
    for word, names in (("start", starts), ("stop", stops)):
        if names:
            click.echo(f"{word}: {', '.join(names)}")
