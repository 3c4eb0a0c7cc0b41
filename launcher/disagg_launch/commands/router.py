"""`disagg-launch router`: the OpenAI-compatible front door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

import click


@click.command()
@click.option("-c", "--config", "--config_file", "path", required=True, type=click.Path(path_type=Path), help="A disagg_config.yaml.")
@click.option("-m", "--metadata_server_config_file", "metadata", type=click.Path(path_type=Path), help="A metadata_config.yaml.")
@click.option("--host", help="Address to listen on, in place of the file's hostname.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, in place of the file's port.")
@click.option(
    "-r",
    "--request_timeout",
    type=click.FloatRange(min=0),
    help="Seconds for one call to a worker, in place of front_door.request_timeout_s.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    help="Seconds that running requests are given at the end.",
)
@click.option("--closed", is_flag=True, help="Answer nobody but the admin until POST /admin/open.")
def router(
    path: Path,
    metadata: Optional[Path],
    host: Optional[str],
    port: Optional[int],
    request_timeout: Optional[float],
    drain_s: int,
    closed: bool,
) -> None:
    """Serve the front door of running context and generation servers until SIGTERM or Ctrl-C; SIGHUP: read the file again."""
    from disagg_launch.router import config as configuration
    from disagg_launch.router.config import Config
    from disagg_launch.router.serve import run

    def read() -> Config:
        config = configuration.load(path)
        if metadata:
            config = replace(config, metadata=configuration.load_metadata(metadata))
        door = replace(config.front_door, request_timeout_s=request_timeout) if request_timeout else config.front_door
        return replace(config, host=host or config.host, port=config.port if port is None else port, front_door=door)

    run(read, drain_s, closed)
