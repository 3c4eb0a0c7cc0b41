"""`rehearse`: the launch of a topology with featherweight workers on this machine, and what the launcher makes of things that go wrong."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.commands.plan import planned, set_option
from disagg_launch.commands.run import written
from disagg_launch.errors import BadInput, DisaggError

if TYPE_CHECKING:
    from disagg_launch.rehearse.scenario import Scenario
    from disagg_launch.spec import Spec

REHEARSALS = pathlib.Path("runs/rehearsals")


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=pathlib.Path))
@set_option
@click.option("--scenario", default="calm", show_default=True, help="A scenario file, or the name of one that comes along.")
@click.option("--list", "list_them", is_flag=True, help="List the scenarios that come along.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="How long to serve once ready, instead of the scenario's.")
@click.option("--run", type=click.Path(path_type=pathlib.Path), help="The run folder. [default: runs/rehearsals/NAME, counted up]")
@click.option("--json", "as_json", is_flag=True, help="Print what was seen as JSON.")
def rehearse(
    spec: Optional[pathlib.Path],
    sets: tuple[str, ...],
    scenario: str,
    list_them: bool,
    seconds: Optional[float],
    run: Optional[pathlib.Path],
    as_json: bool,
) -> None:
    """Launch SPEC's plan with featherweight workers on this machine, have things go wrong, and report what the launcher did.

    Nothing of the engine runs: every rank is a small process that loads, is healthy and answers as told by the scenario. Placement, start,
    waiting, the front door, restarts and the end are the real ones. Exit code 1 if the launcher did not do what the scenario expects.
    """
    from disagg_launch.rehearse import perform, report
    from disagg_launch.rehearse import scenario as scenarios

    if list_them:
        for name, one in scenarios.shipped().items():
            click.echo(f"{name:16} {one.about}")
        return
    if spec is None:
        raise BadInput("rehearse: found no topology file; needed: SPEC, or --list")
    wanted = scenarios.named(scenario)
    if seconds:
        wanted = wanted.model_copy(update={"serve_s": seconds})
    folder = _folder(spec, sets, wanted, run)
    click.echo(f"run folder: {folder}", err=True)
    seen = perform.perform(folder, wanted)
    if as_json:
        click.echo(json.dumps({**seen.as_json(), "events": list(perform.events(folder))}, indent=1))
    else:
        for line in (*report.lines(perform.events(folder)), "", *report.figures(seen)):
            click.echo(line)
    if wrong := report.missed(wanted.expect, seen):
        raise DisaggError("\n".join(["the rehearsal did not go as the scenario expects", *wrong]))


def _folder(path: pathlib.Path, sets: tuple[str, ...], scenario: Scenario, run: Optional[pathlib.Path]) -> pathlib.Path:
    """The run folder of the rehearsal, written."""
    from disagg_launch.rehearse import stage

    topology, plan = planned(path, sets)
    if not plan.instances:
        raise BadInput(f"{path}: its servers run already; a rehearsal needs instances to start")
    _check_policy(path, topology, scenario)
    return written(topology, stage.files(topology, plan, scenario), run, REHEARSALS, begins=True)


def _check_policy(path: pathlib.Path, topology: Spec, scenario: Scenario) -> None:
    if scenario.expect.restarted and topology.restart.on_failure != "restart":
        raise BadInput(
            f"{path}: restart.on_failure: found {topology.restart.on_failure}; the scenario expects {', '.join(scenario.expect.restarted)}"
            " to come back, which needs restart"
        )
