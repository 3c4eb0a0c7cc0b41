"""`autoscale record` and `autoscale simulate`: write down the load of a deployment, and see what a policy would have made of it."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Optional
from urllib.parse import urlsplit

import click

from disagg_launch.commands.plan import set_option
from disagg_launch.commands.run import folder_type, run_argument
from disagg_launch.errors import BackendRefused, BadInput


@click.group()
def autoscale() -> None:
    """Try a scaling policy out on a recorded load, before it changes anything."""


@autoscale.command()
@run_argument
@click.option("--every", "every_s", type=click.FloatRange(min=0.1), default=5, show_default=True, help="Seconds between two looks.")
@click.option("--for", "for_s", type=click.FloatRange(min=0), help="Seconds in all. [default: until Ctrl-C]")
def record(run: pathlib.Path, every_s: float, for_s: Optional[float]) -> None:
    """Print what goes on in RUN [default: the latest]: one JSON object per look, for `autoscale simulate --trace`.

    It reads the front door's /admin/load, so it has to run where that answers: on the front door's machine if it listens there only.
    """
    from disagg_launch.autoscale import trace
    from disagg_launch.runtime import figures

    host, port, token = _front_door(run)
    began_s = time.monotonic()
    before_s, before = began_s, _figures(host, port, token)
    while for_s is None or before_s - began_s < for_s:
        time.sleep(every_s)
        now_s, now = time.monotonic(), _figures(host, port, token)
        times = now_s - began_s, now_s - before_s
        click.echo(trace.line({role: figures.between(before[role], now[role], *times, int(now[role]["ready"])) for role in trace.ROLES}))
        before_s, before = now_s, now


@autoscale.command()
@click.argument("spec", type=folder_type)
@set_option
@click.option(
    "--trace", "trace_file", type=folder_type, required=True, help="What `autoscale record` wrote, or the front door's access log."
)
@click.option("--svg", type=folder_type, help="Draw it into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print every moment as JSON.")
@click.option(
    "--start", "start_s", type=click.FloatRange(min=0), default=30, show_default=True, help="Seconds until a new instance serves."
)
@click.option("--after", "after_s", type=click.FloatRange(min=0), default=300, show_default=True, help="Seconds after the trace's end.")
@click.option("--slots", multiple=True, metavar="ctx=N|gen=N", help="Requests an instance works on at once. [default: the file's limits]")
@click.option("--busy", multiple=True, metavar="ctx=S|gen=S", help="Seconds it works on one. [default: as the trace tells]")
def simulate(
    spec: pathlib.Path,
    sets: tuple[str, ...],
    trace_file: pathlib.Path,
    svg: Optional[pathlib.Path],
    as_json: bool,
    start_s: float,
    after_s: float,
    slots: tuple[str, ...],
    busy: tuple[str, ...],
) -> None:
    """Play a recorded load through the policy of SPEC (its map `autoscale`), and say what it would have done. Nothing is started."""
    from disagg_launch import spec as specs
    from disagg_launch.autoscale import chart, models, outcome, trace
    from disagg_launch.autoscale import simulate as simulation

    topology = specs.load(spec, sets)
    try:
        looks = trace.read(trace_file.read_text(encoding="utf-8"), str(trace_file))
    except (OSError, UnicodeDecodeError) as wrong:
        raise BadInput(f"{trace_file}: cannot be read ({wrong})") from None
    made = models.models(topology, looks, models.per_role(slots, "--slots", "a whole number"), models.per_role(busy, "--busy"))
    assert topology.autoscale is not None
    policy = topology.autoscale
    moments = simulation.simulate(looks, made, policy.interval_s, policy.window_s, start_s, after_s)
    if as_json:
        click.echo(json.dumps(outcome.data(moments, made), indent=1))
    else:
        for line in outcome.lines(moments, made):
            click.echo(line)
    if svg:
        svg.write_text(chart.picture(f"{topology.name}: autoscale over {trace_file.name}", moments, made), encoding="utf-8")
        click.echo(f"picture: {svg}", err=True)


def _front_door(run: pathlib.Path) -> tuple[str, int, str]:
    """(host, admin port, admin token) of a running deployment's front door."""
    from disagg_launch.runtime import wire

    try:
        inside = urlsplit(json.loads((run / "state" / "status.json").read_text(encoding="utf-8"))["router"]["inside"])
        token = wire.read_token(str(run))
    except (OSError, ValueError, KeyError) as wrong:
        raise BadInput(f"{run}: no gateway has run here ({wrong}); name the folder of a running deployment") from None
    return inside.hostname or "", inside.port or 80, token.decode()


def _figures(host: str, port: int, token: str) -> dict[str, dict[str, float]]:
    from disagg_launch.runtime import figures

    try:
        return {role: dict(found) for role, found in figures.read(host, port, token).items()}
    except (OSError, ValueError) as wrong:
        raise BackendRefused(f"http://{host}:{port}/admin/load: {wrong}; only the router `builtin` has it, while it is up") from None
