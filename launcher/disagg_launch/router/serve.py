"""Running the application: uvicorn with uvloop and httptools, one process or several on one port, drained when told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import uvicorn

from disagg_launch.router.app import App
from disagg_launch.router.config import Config
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.workers import Table

KEEP_ALIVE_S = 10  # as upstream's router


class Application:
    """The ASGI callable that uvicorn is given: it makes the router when the event loop runs, and ends it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app: App = None  # type: ignore[assignment]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        table = Table(self._config.front_door.max_in_flight_per_worker)
        flow = Flow(self._config, table, Metrics())
        fleet = Fleet(self._config, table)
        fleet.on_change = lambda worker: flow.queue.advance()
        self._app = App(fleet, flow)
        await fleet.start()
        gc.collect()
        gc.freeze()  # what is here now stays; later collections need not look at it
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await fleet.stop()
        await send({"type": "lifespan.shutdown.complete"})


def run(config: Config, host: str, port: int, drain_s: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running, for at most `drain_s` seconds."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options: dict[str, Any] = {"host": host, "port": port, "loop": _loop(), "http": "httptools", "ws": "none", "lifespan": "on"}
    options |= {"log_config": None, "log_level": "warning", "access_log": False, "server_header": False, "date_header": False}
    options |= {"backlog": 4096, "timeout_keep_alive": KEEP_ALIVE_S, "timeout_graceful_shutdown": drain_s}
    server = uvicorn.Server(uvicorn.Config(Application(config), **options))
    asyncio.run(server.serve()) if _loop() == "asyncio" else server.run()


def _loop() -> str:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio"
    return "uvloop"
