"""`layout write` and `layout verify`: the forms of a plan for other programs and for people, and whether they agree with it."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Iterator, Optional

import click

from disagg_launch.commands.plan import set_option
from disagg_launch.errors import BadInput

if TYPE_CHECKING:
    from disagg_launch.layouts.table import Form
    from disagg_launch.plan import Plan

file = click.Path(path_type=pathlib.Path)


@click.group()
def layout() -> None:
    """Write and verify the forms of a layout: hostfile, rankfile, picture, ..."""


@layout.command()
@click.argument("source", type=file)
@set_option
@click.option("--form", "names", multiple=True, help="Which form; more than once for several. [default: all of them]")
@click.option(
    "--hosts", default="", help="Host names by node number: gpu[01-04], a,b,c, or @FILE with one per line. [default: node0, node1, ...]"
)
@click.option("--out", type=file, help="Write files into this folder. [default: one form is printed]")
def write(source: pathlib.Path, sets: tuple[str, ...], names: tuple[str, ...], hosts: str, out: Optional[pathlib.Path]) -> None:
    """Write forms of the plan of SOURCE: a topology file, a plan.json or a run folder. `layout forms` lists them.

    With --out the folder gets plan.json and `hosts` too, so that `layout verify FOLDER` can hold the forms against them.
    """
    from disagg_launch.commands.plan import read
    from disagg_launch.layouts.table import FORMS
    from disagg_launch.plan import to_json

    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise BadInput(f"--form: {unknown[0]!r} found; one of {', '.join(FORMS)} needed")
    plan = read(source, sets)
    known = _host_names(hosts, plan)
    if out is None:
        if len(names) != 1:
            raise BadInput("--out FOLDER is needed to write several forms; one --form is printed")
        click.echo(FORMS[names[0]].write(plan, known), nl=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "plan.json").write_text(to_json(plan), encoding="utf-8")
    for name in dict.fromkeys(("hosts", *(names or FORMS))):
        (out / FORMS[name].file).write_text(FORMS[name].write(plan, known), encoding="utf-8")
        click.echo(out / FORMS[name].file)


@layout.command()
@click.argument("paths", type=file, nargs=-1, required=True)
@set_option
@click.option(
    "--plan", "source", type=file, help="What to hold them against: topology, plan.json or run folder. [default: plan.json beside them]"
)
@click.option("--hosts", default="", help="Host names by node number. [default: the file `hosts` beside them, else node0, node1, ...]")
def verify(paths: tuple[pathlib.Path, ...], sets: tuple[str, ...], source: Optional[pathlib.Path], hosts: str) -> None:
    """Read the forms in PATHS (files, or folders of them) and fail on the first that says something else than the plan.

    A file's name says which form it is, as `layout forms` lists them.
    """
    from disagg_launch.commands.plan import read
    from disagg_launch.layouts.verify import disagreement

    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    plan = read(source or folder / "plan.json", sets)
    beside = folder / "hosts"
    known = _host_names(hosts or (f"@{beside}" if beside.is_file() else ""), plan)
    forms = list(_forms_in(paths))
    if not forms:
        raise BadInput(f"{paths[0]}: no form of a layout found; `disagg-launch layout forms` lists their file names")
    for path, form in forms:
        wrong = disagreement(form, path.read_text(encoding="utf-8"), plan, known)
        if wrong:
            raise BadInput(f"{path}: disagrees with plan {plan.digest}\n  {wrong}")
        click.echo(f"{path}: agrees")


@layout.command()
def forms() -> None:
    """List the forms, their file names, and who reads them."""
    from disagg_launch.layouts.table import FORMS

    for name, form in FORMS.items():
        click.echo(f"{name:<15} {form.file:<15} {form.about}")


def _forms_in(paths: tuple[pathlib.Path, ...]) -> Iterator[tuple[pathlib.Path, Form]]:
    from disagg_launch.layouts.table import FORMS

    by_file = {form.file: form for form in FORMS.values()}
    for path in paths:
        if path.is_dir():
            yield from ((path / name, form) for name, form in by_file.items() if (path / name).is_file())
        elif path.name in by_file:
            yield path, by_file[path.name]
        else:
            raise BadInput(f"{path}: {path.name!r} is the file name of no form; `disagg-launch layout forms` lists them")


def _host_names(text: str, plan: Plan) -> list[str]:
    """Host names by node number. BadInput if they are too few or one is there twice."""
    from disagg_launch.hostlist import expand

    if not text:
        return [f"node{number}" for number in range(plan.node_count)]
    if text.startswith("@"):
        try:
            names = pathlib.Path(text[1:]).read_text(encoding="utf-8").split()
        except OSError as wrong:
            raise BadInput(f"--hosts: {text[1:]}: {wrong.strerror or wrong}") from None
    else:
        names = list(expand(text))
    if len(names) < plan.node_count:
        raise BadInput(f"--hosts: {len(names)} hosts found, {plan.node_count} needed, one for each node of the plan")
    if len(set(names)) < len(names):
        raise BadInput(f"--hosts: {next(name for name in names if names.count(name) > 1)} is there twice; nodes need names of their own")
    return names
