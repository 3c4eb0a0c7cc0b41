"""`scale`, `restart`, `upgrade`, `remove`: change a deployment while it serves."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from disagg_launch.commands.plan import set_option
from disagg_launch.commands.run import run_folder
from disagg_launch.errors import BackendRefused, BadInput, DoesNotFit, NotReady
from disagg_launch.plan import PREFIX

if TYPE_CHECKING:
    from disagg_launch.launch import Launch
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

POLL_S = 0.2

INSTANCE = re.compile(r"(ctx|gen)\d+")
drain_option = click.option(
    "--drain", "drain_s", type=click.FloatRange(min=0), default=60, show_default=True, help="Seconds that requests under way get."
)
interrupt_option = click.option(
    "--interrupt", is_flag=True, help="Replace even where a role falls below its minimal instances meanwhile: requests wait or are refused."
)


class Running(NamedTuple):
    """A deployment that can change: its run folder, the topology it is to have, its plan and launch, and who is stopped.

    `nodes`: how many it has, None where there are always more; those `gone` cannot be used. The `stranded` wait for a node.
    """

    run: pathlib.Path
    spec: Spec
    plan: Plan
    launch: Launch
    resting: set[str]
    nodes: int | None
    gone: list[int]
    stranded: set[str]


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] WISHES...")
@drain_option
@click.option("--limit-s", type=click.FloatRange(min=0), default=float("inf"), help="Wait so long for a further Slurm job. [default: ever]")
def scale(words: tuple[str, ...], drain_s: float, limit_s: float) -> None:
    """Change how many instances of RUN [default: the latest] there are: gen=+1, ctx=3, gen=-2. Comes back when it is so.

    Nobody who runs moves. New instances are given requests when they are healthy; those that go finish what they have. On Slurm, what
    finds no room on the job's nodes becomes a further job, and nodes that nobody needs are given back. Who waits for a node does not count,
    and is given up once there are as many of its role as you wish.
    """
    from disagg_launch.commands import further
    from disagg_launch.discovery import growth, overflow

    run, wishes = _run_and(words, lambda word: "=" in word)
    found = _deployment(run)
    now = found._replace(resting=found.resting | found.stranded)
    jobs = further.alive(run)
    here = {role: sum(i.role == role and i.name not in now.resting for i in now.plan.instances) for role in growth.ROLES}
    counts = {role: here[role] + sum(len(job.names(role)) for job in jobs) for role in growth.ROLES}
    wanted = growth.wishes(wishes, counts)
    for role in growth.ROLES:
        if counts[role] or wanted[role]:
            growth.check(now.spec, role, wanted[role])
    surplus = {role: counts[role] - wanted[role] for role in growth.ROLES}
    cuts = list(further.cuts(jobs, surplus))
    room, lost = _room(now), _lost(now)
    aim = {role: here[role] - surplus[role] for role in growth.ROLES}
    fit = overflow.fitting(room, now.plan, now.resting, lost, aim) if now.launch.backend == "slurm" else aim
    change = growth.change(room, now.plan, now.resting, fit, lost)
    further_wanted = {role: aim[role] - fit[role] for role in growth.ROLES}
    if change.starts or change.stops or not (cuts or any(further_wanted.values())):
        _print_difference(now.plan, change.plan, change.starts, change.stops)
    if change.starts or change.stops:
        _carry_out(now._replace(plan=change.plan), drain_s, starts=change.starts, stops=change.stops)
    for cut in cuts:
        if cut.job.state == "ready":
            _carry_out(_deployment(cut.job.run), drain_s, stops=cut.stops)
        if cut.whole:
            further.end(cut.job)
    if any(further_wanted.values()):
        further.begin(run, now.spec, further_wanted, limit_s)
    roles = {role for role in growth.ROLES if any(word.startswith(f"{PREFIX[role]}=") for word in wishes)}
    _give_up([one.name for one in now.plan.instances if one.name in found.stranded and one.role in roles], run)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] INSTANCES...")
@drain_option
@interrupt_option
def restart(words: tuple[str, ...], drain_s: float, interrupt: bool) -> None:
    """Restart INSTANCES (ctx0, gen1) of RUN [default: the latest] in turn: drained, stopped, started, healthy, then the next.

    Where a role would fall below its minimal instances, another instance is started first and stands in.
    """
    run, instances = _run_and(words, INSTANCE.fullmatch)
    now = _deployment(run)
    _replace_in_turn(now, _there(now, instances), now.spec, drain_s, interrupt)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] SPEC")
@set_option
@drain_option
@interrupt_option
def upgrade(words: tuple[str, ...], sets: tuple[str, ...], drain_s: float, interrupt: bool) -> None:
    """Replace all instances of RUN [default: the latest] by those of SPEC (another version, other keys), one by one, in their places.

    Where a role would fall below its minimal instances, another instance of SPEC is started first and stands in.
    """
    from disagg_launch import spec as specs
    from disagg_launch.commands import further

    if len(words) > 2:
        raise BadInput(f"found {len(words)} words, needed SPEC, or RUN and SPEC")
    now = _deployment(run_folder(words[0]) if len(words) == 2 else run_folder())
    if jobs := further.alive(now.run):
        raise BadInput(f"{jobs[0].run}: its instances run in a further job, {jobs[0].job}; `scale` down to those of the first job before")
    fresh = now._replace(spec=_changeable(specs.load(pathlib.Path(words[-1]), sets)))
    if any(now.spec.section(role).model != fresh.spec.section(role).model for role in PREFIX):
        click.echo(
            "another model: until all are replaced, a request may meet the old one in one role and the new one in the other", err=True
        )
    _replace_in_turn(fresh, [i.name for i in now.plan.instances if i.name not in now.resting], now.spec, drain_s, interrupt)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[RUN] INSTANCES...")
@drain_option
def remove(words: tuple[str, ...], drain_s: float) -> None:
    """Take INSTANCES out of RUN [default: the latest]: no new requests, gone from the front door and the metadata server, stopped.

    Where a role would fall below its minimal instances, others are started first and take their place.
    """
    from disagg_launch.discovery import growth

    run, instances = _run_and(words, INSTANCE.fullmatch)
    now = _deployment(run)
    names = _there(now, instances)
    change = growth.without(_room(now), now.plan, now.resting, names, True, _minimal(now), _lost(now))
    if change.starts:
        click.echo(f"{', '.join(change.starts)} is started first, so that enough go on serving", err=True)
    _carry_out(now._replace(plan=change.plan), drain_s, starts=change.starts, stops=names)


def _give_up(names: Sequence[str], run: pathlib.Path) -> None:
    """Stop those of them that still wait for a node: others have taken their places."""
    now = _deployment(run) if names else None
    waiting = [name for name in names if now and name in now.stranded]
    if now and waiting:
        click.echo(f"given up: {', '.join(waiting)}, for which there was no node")
        _carry_out(now, 0, stops=waiting)


def _run_and(words: Sequence[str], is_other: Callable[[str], object]) -> tuple[pathlib.Path, tuple[str, ...]]:
    """The run folder, the first word unless `is_other`, and the other words, of which there must be one."""
    run, rest = (run_folder(), tuple(words)) if is_other(words[0]) else (run_folder(words[0]), tuple(words[1:]))
    if not rest:
        raise BadInput(f"{words[0]}: found only that; say what to change, such as gen=+1 or gen1")
    return run, rest


def _replace_in_turn(fresh: Running, names: Sequence[str], serving: Spec, drain_s: float, interrupt: bool) -> None:
    """Replace `names` by those of `fresh`, while the front door of the topology `serving` keeps its minimal instances."""
    from disagg_launch.discovery import growth

    _check_sizes(fresh)
    least = dict.fromkeys(growth.ROLES, 0) if interrupt else _minimal(fresh._replace(spec=serving))
    try:
        change = growth.without(_room(fresh), fresh.plan, fresh.resting, names, False, least, _lost(fresh))
    except DoesNotFit as wrong:
        raise DoesNotFit(f"{wrong}, or let requests wait or be refused meanwhile with --interrupt") from None
    if change.starts:
        click.echo(f"{', '.join(change.starts)} stands in while others are replaced", err=True)
    _carry_out(fresh._replace(plan=change.plan), drain_s, starts=change.starts, replaces=names, stops=change.starts)


def _minimal(now: Running) -> dict[str, int]:
    """How many instances of each role have to go on serving here, beside those of further jobs."""
    from disagg_launch.commands import further
    from disagg_launch.discovery import growth

    others = [job for job in further.alive(now.run) if job.state == "ready"]
    return {role: max(0, growth.minimal(now.spec, role) - sum(len(job.names(role)) for job in others)) for role in growth.ROLES}


def _room(now: Running) -> Spec:
    """The topology inside the nodes that there are."""
    from disagg_launch.discovery import overflow

    return overflow.within(now.spec, now.plan, now.nodes, now.gone)


def _lost(now: Running) -> set[str]:
    """Who was stopped and cannot be started again."""
    from disagg_launch.discovery import overflow

    return overflow.buried(now.plan, now.resting, now.gone)


def _deployment(run: pathlib.Path) -> Running:
    """The deployment in a run folder, as it is. BadInput if it is none that can change, BackendRefused if it is not up."""
    from disagg_launch import launch as launches
    from disagg_launch import plan as plans
    from disagg_launch import spec as specs

    try:
        plan = plans.from_json((run / "plan.json").read_text(encoding="utf-8"))
        launch = launches.from_json((run / "launch.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise BadInput(f"{run}: no run folder ({wrong}); name the one of a running deployment") from None
    topology = _changeable(specs.load(run / "spec.yaml"))
    if launch.router.tls_cert:  # paths beside the topology file, of which the folder has a copy
        options = {**topology.router.options, "tls_cert_file": launch.router.tls_cert, "tls_key_file": launch.router.tls_key}
        topology = topology.model_copy(update={"router": topology.router.model_copy(update={"options": options})})
    if len(launch.starts) != len(plan.instances):
        raise BadInput(f"{run}: all instances are one step; only a deployment with one step per instance can change")
    told = _ask(run, {"kind": "progress"})
    return Running(run, topology, plan, launch, set(told["resting"]), told["nodes"], told["gone"], set(told["stranded"]))


def _changeable(topology: Spec) -> Spec:
    if topology.router.name != "builtin" and topology.disagg_cluster is None:
        raise BadInput(f"router.name {topology.router.name}: its list of servers is fixed; use the router `builtin` or a `disagg_cluster`")
    return topology


def _check_sizes(now: Running) -> None:
    """BadInput if the topology's instances have another shape than the plan's."""
    for one in now.plan.instances:
        if now.spec.section(one.role).size != one.size:
            raise BadInput(
                f"{one.name} has {one.size} ranks, the file wants {now.spec.section(one.role).size}: start another deployment for that"
            )


def _there(now: Running, names: Sequence[str]) -> list[str]:
    """The names, each once. BadInput for one that does not run."""
    known = [one.name for one in now.plan.instances]
    for name in names:
        if name not in known:
            raise BadInput(f"{name}: no such instance; there are {', '.join(known)}")
        if name in now.resting:
            raise BadInput(f"{name}: it is stopped; `disagg-launch scale {name[:3]}=+1` starts one again")
    return list(dict.fromkeys(names))


def _rendered(now: Running) -> list[Any]:
    """The run folder's files for the plan there is to be, but for the program that runs there already."""
    from disagg_launch import render, weights
    from disagg_launch.discovery import growth

    counts = {role: sum(i.role == role for i in now.plan.instances) for role in growth.ROLES}
    spec, backend = growth.resized(now.spec, now.plan, counts), now.launch.backend
    python = "python3" if backend == "slurm" else sys.executable
    return [one for one in render.render(spec, now.plan, backend, python, weights.on_disk) if one.path != "runtime.pyz"]


def _carry_out(now: Running, drain_s: float, starts: Sequence[str] = (), replaces: Sequence[str] = (), stops: Sequence[str] = ()) -> None:
    """Put the new plan's files beside the run folder's, have the gateway do it in this order, and wait. NotReady when some of it failed."""
    fresh = now.run / "state" / f"change.{os.getpid()}"
    for one in _rendered(now):
        path = fresh / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.text if isinstance(one.text, bytes) else one.text.encode())
        path.chmod(one.mode)
    change = {"starts": starts, "replaces": replaces, "stops": stops, "drain_s": drain_s}
    try:
        answer = _ask(now.run, {"kind": "change", "folder": fresh.name, **change})
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # what was refused is of no use to anybody
    if "refused" in answer:
        raise BackendRefused(f"the gateway refused: {answer['refused']}")
    while (seen := _ask(now.run, {"kind": "progress"}))["busy"]:
        time.sleep(POLL_S)
    if seen["problems"]:
        raise NotReady("\n".join(seen["problems"]))


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
