"""`explain`: why a deployment failed, now or later."""

from __future__ import annotations

import json
import pathlib

import click

from disagg_launch.commands.run import run_argument


def _table(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Needs no run, so it comes before one is looked for."""
    if wanted:
        from disagg_launch.runtime import causes

        click.echo(causes.table(), nl=False)
        ctx.exit()


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the keys of state/verdict.json.")
@click.option(
    "--table",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_table,
    help="Print the catalogue of likely causes (Markdown) instead.",
)
def explain(run: pathlib.Path, as_json: bool) -> None:
    """Say why the deployment in RUN (a folder or a Slurm job's id) [default: the latest] failed.

    Who failed first, where and how, its first error lines, a likely cause and what to do. Of one that runs: what was restarted, and why; of
    a job that waits: what for. Works also when the gateway was killed, from the logs.
    """
    from disagg_launch import explanation

    told = explanation.explanation(run)
    if as_json:
        click.echo(json.dumps(told, indent=1))
    else:
        click.echo("\n".join(explanation.lines(told)))
