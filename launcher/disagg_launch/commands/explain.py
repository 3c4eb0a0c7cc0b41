"""`explain`: why a deployment failed, now or later."""

from __future__ import annotations

import json
import pathlib

import click

from disagg_launch.commands.run import run_argument


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the keys of state/verdict.json.")
@click.option("--table", is_flag=True, help="Print the catalogue of likely causes (Markdown) instead.")
def explain(run: pathlib.Path, as_json: bool, table: bool) -> None:
    """Say why the deployment in RUN (a folder or a Slurm job's id) [default: the latest] failed.

    Who failed first, where and how, its first error lines, a likely cause and what to do. Of one that runs: what was restarted, and why; of
    a job that waits: what for. Works also when the gateway was killed, from the logs.
    """
    from disagg_launch import explanation
    from disagg_launch.runtime import causes

    if table:
        click.echo(causes.table(), nl=False)
        return
    told = explanation.explanation(run)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join(explanation.lines(told)))
