"""The page as a front door has it: mounted below /ui, sampling for as long as the front door lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from disagg_launch.page.deeds import Deeds
from disagg_launch.page.doorman import Doorman
from disagg_launch.page.figures import figures
from disagg_launch.page.series import Series
from disagg_launch.page.site import Site
from disagg_launch.page.source import Alone, OfRun, Source

if TYPE_CHECKING:
    from disagg_launch.router.admin import Admin
    from disagg_launch.router.config import Config
    from disagg_launch.router.fleet import Fleet
    from disagg_launch.router.metrics import Metrics

PATHS = ("/ui", "/ui/")
SAMPLE_S = 1.0


class Page:
    """`mounts` are its ASGI application by path."""

    def __init__(self, site: Site, series: Series, metrics: Metrics) -> None:
        self.mounts: Mapping[str, Any] = dict.fromkeys(PATHS, site)
        self._sampler = asyncio.ensure_future(_sample(series, metrics))

    async def stop(self) -> None:
        """Sample no more."""
        self._sampler.cancel()
        await asyncio.gather(self._sampler, return_exceptions=True)


class NoPage:
    """What there is when the configuration says `ui: false`."""

    mounts: Mapping[str, Any] = {}

    async def stop(self) -> None:
        """Nothing runs."""


def attach(fleet: Fleet, config: Config, metrics: Metrics, admin: Callable[[], Admin]) -> Page | NoPage:
    """The page as the configuration asks for it. To be called in the event loop; `admin` is asked when somebody acts."""
    door = config.front_door
    if not door.ui:
        return NoPage()
    run = Path(door.run_folder) if door.run_folder else None
    series = Series()
    url = f"{'https' if door.tls_cert_file else 'http'}://{config.host}:{config.port}"
    look = OfRun(run) if run else Alone(config.model or "router", url, fleet.table.by_url)
    workers = fleet.table.by_url.values()
    may = {"act": bool(door.admin_token_file), "restart": bool(door.admin_token_file and run), "read": run is not None}
    source = Source(look, lambda: figures(metrics, workers), lambda: fleet.ready, may)
    token_file = door.ui_token_file or (str(run / "state" / "ui-token") if run else "")
    deeds = Deeds(run, admin, source)
    return Page(Site(Doorman(config.host, token_file, door.admin_token_file), source, series, deeds, run), series, metrics)


async def _sample(series: Series, metrics: Metrics) -> None:
    while True:
        series.sample(time.time(), metrics)
        await asyncio.sleep(SAMPLE_S)
