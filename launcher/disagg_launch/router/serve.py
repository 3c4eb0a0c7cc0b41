"""Running the application: uvicorn with uvloop and httptools, one process or several on one port, drained when told to stop."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import signal
from typing import Any, Callable, Iterable, cast

import uvicorn

from disagg_launch.discovery.attach import attach, storage_token
from disagg_launch.page.attach import attach as attach_page
from disagg_launch.router import processes
from disagg_launch.router.app import App
from disagg_launch.router.config import Config
from disagg_launch.router.dispatch import Dispatch
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.load import load
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.processes import Siblings
from disagg_launch.router.protocol import Connection, Reply, Request, bound
from disagg_launch.router.workers import Table

SWEEP_S = 1.0  # between two looks for clients that take too long; histograms are folded then too
GC_THRESHOLD = (20_000, 20, 50)  # requests make few cycles: look for them less often than Python does by default
GEN_ONLY = "TRTLLM_DISAGG_BENCHMARK_GEN_ONLY"  # upstream's switch: 1 measures generation workers alone
ALONE = Siblings()


class Application:
    """What uvicorn runs: it makes the router when the event loop runs, and ends it. Requests come by `protocol`, not by ASGI."""

    def __init__(self, config: Config, siblings: Siblings) -> None:
        self._config = config
        self._siblings = siblings
        self._parent = os.getppid()
        self.app: App = None  # type: ignore[assignment]
        self.protocol = bound(self._handle, config.front_door)
        self.connections: Callable[[], Iterable[Connection]] = tuple  # set when there is a server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _handle(self, request: Request, reply: Reply) -> None:
        await self.app.handle(request, reply)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        door = self._config.front_door
        table, metrics = Table(door.max_in_flight_per_worker), Metrics()
        dispatch = Dispatch(self._config, table, metrics)
        metrics.queued = lambda: dispatch.queue.length
        fleet = Fleet(self._config, table, dispatch.changed)
        flow = _flow(self._config)(self._config, dispatch, metrics, os.environ.get(GEN_ONLY) == "1")
        discovery = attach(fleet, self._config)
        page = attach_page(fleet, self._config, metrics, lambda: self.app.admin)
        inner = {**discovery.mounts, **page.mounts}
        outer = page.mounts if self._config.storage_inside else inner
        self.app = App(fleet, flow, metrics, outer, inner, self._siblings, lambda: load(dispatch, metrics))
        self._siblings.listen(asyncio.get_running_loop(), self.app.admin.hear)
        await fleet.start()
        sweeper = asyncio.ensure_future(self._sweep(metrics))
        gc.collect()
        gc.freeze()  # what is here now stays; later collections need not look at it
        gc.set_threshold(*GC_THRESHOLD)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        sweeper.cancel()
        await page.stop()
        await discovery.stop()
        await fleet.stop()
        await flow.stop()
        self.app.access.flush()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self, metrics: Metrics) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            metrics.fold()
            if self._config.front_door.processes > 1 and os.getppid() != self._parent:
                signal.raise_signal(signal.SIGTERM)  # the first process was killed: nobody would ever stop this one
            for connection in list(self.connections()):
                connection.sweep(loop.time())


def options(config: Config, application: Application, drain_s: int) -> dict[str, Any]:
    """What uvicorn is told: no logs of its own, our limits, and as little as possible between the socket and the application."""
    told: dict[str, Any] = {"host": config.host, "port": config.port, "loop": _loop(), "http": application.protocol, "ws": "none"}
    told |= {
        "log_config": None,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
    }
    told |= {"backlog": 4096, "timeout_graceful_shutdown": drain_s, "lifespan": "on"}
    if config.front_door.tls_cert_file:
        told |= {"ssl_certfile": config.front_door.tls_cert_file, "ssl_keyfile": config.front_door.tls_key_file}
    return told


def server(config: Config, drain_s: int, siblings: Siblings = ALONE, **more: Any) -> uvicorn.Server:
    """A uvicorn server of the router, not yet running. `more` are options of uvicorn's."""
    application = Application(config, siblings)
    one = uvicorn.Server(uvicorn.Config(application, **{**options(config, application, drain_s), **more}))
    application.connections = lambda: cast(Iterable[Connection], one.server_state.connections)
    return one


def run(config: Config, drain_s: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running, for at most `drain_s` seconds."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    storage_token(config)  # that it is missing is said before anything is opened
    _flow(config)
    door = config.front_door
    ports = [config.port, *([door.admin_port] if door.admin_port else [])]
    processes.run(config.host, ports, door.processes, lambda own, siblings: server(config, drain_s, siblings).run(own))


def _flow(config: Config) -> type[Flow]:
    """The way of requests, with tracing if it is asked for. BadInput if what that needs is not installed."""
    if not config.otlp_traces_endpoint:
        return Flow
    from disagg_launch.router.tracing import TracedFlow

    return TracedFlow


def _loop() -> str:
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
