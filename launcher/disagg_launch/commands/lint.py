"""`lint`, `schema` and `import`: what can be said about a file before anything is submitted."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Optional

import click

from disagg_launch.commands.plan import set_option
from disagg_launch.errors import BadInput, DoesNotFit

if TYPE_CHECKING:
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Complaint, Spec


@click.command()
@click.argument("spec", required=False)
@set_option
@click.option("--explain", metavar="NUMBER", help="Print what a rule is about, and its fix, instead.")
@click.option("--table", is_flag=True, help="Print the table of all rules (Markdown) instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of complaints.")
def lint(spec: Optional[str], sets: tuple[str, ...], explain: Optional[str], table: bool, as_json: bool) -> None:
    """Say what is wrong in SPEC before anything is submitted; nothing is printed if nothing is. Exit 2 if there are errors."""
    from disagg_launch import lint as rules

    if table or explain:
        if explain and explain not in rules.RULES:
            raise click.BadParameter(f"there is no rule {explain}; the rules are {', '.join(rules.RULES)}", param_hint="--explain")
        click.echo(rules.table() if table else rules.explain(str(explain)), nl=False)
        return
    if spec is None:
        raise click.MissingParameter(param_hint="SPEC", param_type="argument")
    complaints, refusal = _complaints(spec, sets)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in complaints], indent=1))
    else:
        for one in complaints:
            click.echo(str(one))
    if refusal:
        raise refusal
    if any(one.severity == "error" for one in complaints):
        raise click.exceptions.Exit(BadInput.exit_code)


def _complaints(path: str, sets: tuple[str, ...]) -> tuple[tuple[Complaint, ...], Optional[DoesNotFit]]:
    """Everything that is wrong with a file, and the planner's refusal if it does not fit."""
    from disagg_launch import engines
    from disagg_launch import lint as rules
    from disagg_launch.spec import BadTopology, load

    try:
        spec = load(path, sets)
    except BadTopology as bad:
        return bad.complaints, None
    plan, refusal = _planned(spec)
    # what an engine's module adds by itself is told when it is added, by `render` and `up`
    own = tuple(one for one in engines.check(spec, plan) if one.severity == "error") if plan else ()
    return tuple(sorted({*rules.check(spec, plan), *own})), refusal


def _planned(spec: Spec) -> tuple[Optional[Plan], Optional[DoesNotFit]]:
    from disagg_launch.place import place

    try:
        return place(spec), None
    except DoesNotFit as refusal:
        return None, refusal


@click.command()
@click.option("--markdown", is_flag=True, help="Print a page about every key instead.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema of the topology file, for editors (`disagg-launch schema > topology.schema.json`)."""
    from disagg_launch.spec import reference
    from disagg_launch.spec.schema import schema_text

    click.echo(reference.markdown() if markdown else schema_text(), nl=False)


@click.command(name="import")
@click.argument("file")
def import_(file: str) -> None:
    """Print FILE as a topology file, with a comment for each thing that has no counterpart.

    FILE is a TensorRT-LLM disagg_config.yaml (printed as it is: it is a topology file), a TensorRT-LLM Slurm benchmark config.yaml, an
    srt-slurm recipe, or aiconfigurator's generator_config.yaml. What is wrong with it is said on standard error, at its place in FILE.
    """
    from disagg_launch.spec import loads
    from disagg_launch.spec.load import convert, read

    text = read(file)
    made = convert(text, file)
    if made == text:
        loads(text, file)  # what is no topology and no file that is known is not printed as if it were one
        click.echo(made, nl=False)
    else:
        # printed even with errors in it: there they are mended
        click.echo(made, nl=False)
        loads(text, file)
