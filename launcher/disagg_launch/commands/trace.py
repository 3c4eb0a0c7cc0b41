"""`trace`: where the time of a start-up went."""

from __future__ import annotations

import json
import pathlib
import time
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.commands.run import folder_type, run_argument
from disagg_launch.errors import BadInput

if TYPE_CHECKING:
    from disagg_launch.watch.trace import Trace


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print the trace as JSON.")
@click.option("--all", "every", is_flag=True, help="Print every instance, not only the last to be healthy.")
@click.option("--chrome", type=folder_type, metavar="FILE", help="Write it for ui.perfetto.dev or chrome://tracing.")
@click.option("--svg", type=folder_type, metavar="FILE", help="Write it as a picture.")
def trace(run: pathlib.Path, as_json: bool, every: bool, chrome: Optional[pathlib.Path], svg: Optional[pathlib.Path]) -> None:
    """Print where the start-up of RUN (a folder or a Slurm job's id) [default: the latest] spent its time: phases, then instances.

    It can be asked for while it starts, while it serves, and after it has ended.
    """
    from disagg_launch.watch import trace_forms, trace_svg

    made = _read(run)
    if chrome:
        chrome.write_text(json.dumps(trace_forms.chrome(made, time.time() - made.began_at)) + "\n", encoding="utf-8")
    if svg:
        svg.write_text(trace_svg.picture(made), encoding="utf-8")
    for line in [json.dumps(trace_forms.as_json(made), indent=1)] if as_json else trace_forms.lines(made, every):
        click.echo(line)


def _read(run: pathlib.Path) -> Trace:
    from disagg_launch.commands.plan import read
    from disagg_launch.watch.happened import EventLog, first_token_at
    from disagg_launch.watch.trace import trace

    if not (run / "plan.json").exists():
        raise BadInput(f"{run}: found no plan.json; needed: a run folder, which `disagg-launch up` or `submit` makes")
    events = EventLog(run / "state" / "events.jsonl").news()
    made = trace(read(run), events, first_token_at(run / "logs" / "router.log", events))
    if made is None:
        raise BadInput(f"{run}: no gateway has told what it did here; start one with `disagg-launch up`, or name another run folder")
    return made
