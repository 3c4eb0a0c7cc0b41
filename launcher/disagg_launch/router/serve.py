"""Running the application: uvicorn with uvloop and httptools, one process or several on one port, drained when told to stop."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import signal
import socket
from typing import Any, Callable, Coroutine, Iterable, cast

import uvicorn

from disagg_launch.discovery.attach import storage_token
from disagg_launch.errors import BadInput
from disagg_launch.router import access, ids, processes
from disagg_launch.router.app import App
from disagg_launch.router.assembly import Assembly, flow_of, renewed, unchangeable
from disagg_launch.router.config import Config
from disagg_launch.router.keys import Keys
from disagg_launch.router.metrics import Metrics
from disagg_launch.router.processes import Siblings
from disagg_launch.router.protocol import Connection, bound
from disagg_launch.router.reply import Reply, Request
from disagg_launch.router.tls import Certificate, Server

SWEEP_S = 0.25  # between two looks for clients that take too long
FOLD_AT = 1000
"""So much a histogram may collect: less than megabytes, and enough that no request of a quiet router waits while a few are counted."""
GC_THRESHOLD = (20_000, 20, 50)  # requests make few cycles: look for them less often than Python does by default
RELOAD_S = 10.0  # that a changed file's workers have to answer before they are used
ALONE = Siblings()

log = logging.getLogger(__name__)


class Application:
    """What uvicorn runs: it makes the router when the event loop runs, and ends it. Requests come by `protocol`, not by ASGI.

    `again` reads the configuration anew, which is done at SIGHUP. `closed`: see `Fleet.closed`.
    """

    def __init__(self, config: Config, siblings: Siblings, again: Callable[[], Config] | None = None, closed: bool = False) -> None:
        self._config = config
        self._closed = closed
        self._siblings = siblings
        ids.settle(siblings.own)
        self._again = again
        self._parent = os.getppid()
        self._metrics = Metrics()
        self._now: Assembly = None  # type: ignore[assignment]
        self._before: set[asyncio.Task[None]] = set()  # what ends by itself, or with us: assemblies that finish what they have in hand
        self.certificate = Certificate(config.front_door) if config.front_door.tls_cert_file else None
        self.protocol = bound(self._handle, config.front_door)
        self.connections: Callable[[], Iterable[Connection]] = tuple  # set when there is a server

    @property
    def app(self) -> App:
        """What answers new requests."""
        return self._now.app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)

    def _handle(self, request: Request, reply: Reply) -> Coroutine[Any, Any, None]:
        return self._now.app.handle(request, reply)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        loop = asyncio.get_running_loop()
        self._now = self._assembly(self._config)
        self._siblings.listen(loop, lambda news: self.app.admin.hear(news))
        # one that is started again later finds the door as the others have it
        self._now.fleet.closed = self._closed and not self._siblings.opened
        await self._now.start()
        sweeper = asyncio.ensure_future(self._sweep())
        if self.certificate:
            self._keep(self.certificate.watch())
        if self._again:
            reloading = asyncio.Lock()
            loop.add_signal_handler(signal.SIGHUP, lambda: self._keep(self._reload(reloading)))
        gc.collect()
        gc.freeze()  # what is here now stays; later collections need not look at it
        gc.set_threshold(*GC_THRESHOLD)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in (sweeper, *self._before):
            task.cancel()
        await self._now.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _assembly(self, config: Config) -> Assembly:
        made = Assembly(config, self._metrics, self._siblings, lambda: self.app.admin)
        self._metrics.queued = lambda: self._now.dispatch.queue.length
        return made

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._before.add(task)
        task.add_done_callback(self._before.discard)

    async def _reload(self, reloading: asyncio.Lock) -> None:
        """Answer new requests as the file says now, once the workers are known; a file that is wrong changes nothing."""
        assert self._again
        async with reloading:
            old = self._now
            try:
                new = self._again()
                for name in unchangeable(old.config, new):
                    log.warning("%s is another now, which needs a restart: it stays as it is", name)
                if old.config.discovers:
                    raise BadInput("workers that make themselves known would be lost; restart the router, and they come back by themselves")
                made = self._assembly(renewed(old.config, new))
            except BadInput as wrong:
                log.error("the configuration was not read again: %s", wrong)
                return
            await made.start(old)
            await made.ready(RELOAD_S)
            self._now, self.protocol.door = made, made.config.front_door
            log.info("the configuration was read again")
        await old.idle()
        await old.stop()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            self._metrics.fold(FOLD_AT)
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
    return told | {"backlog": 4096, "timeout_graceful_shutdown": drain_s, "lifespan": "on"}


def server(
    config: Config, drain_s: int, siblings: Siblings = ALONE, again: Callable[[], Config] | None = None, closed: bool = False
) -> uvicorn.Server:
    """A uvicorn server of the router, not yet running."""
    application = Application(config, siblings, again, closed)
    told = uvicorn.Config(application, **options(config, application, drain_s))
    told.load()
    # our own: what older uvicorns make allows ciphers that are better left alone, and a renewed certificate would not be seen
    told.ssl = application.certificate.context if application.certificate else None
    one = Server(told)
    application.connections = lambda: cast(Iterable[Connection], one.server_state.connections)
    return one


def run(read: Callable[[], Config], drain_s: int, closed: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running, for at most `drain_s` seconds; `read` again at SIGHUP.

    `closed`: serve only the admin until it says that the door is open.
    """
    config = read()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _look(config)

    def serve(own: list[socket.socket], siblings: Siblings) -> None:
        server(_latest(config, read), drain_s, siblings, read, closed).run(own)

    processes.run(config.addresses, config.front_door.processes, serve)


def _latest(config: Config, read: Callable[[], Config]) -> Config:
    """What a process begins with: one that is started again later may find workers in the file that were not there at first."""
    try:
        return renewed(config, read())
    except BadInput as wrong:
        log.error("the configuration was not read again: %s", wrong)
        return config


def _look(config: Config) -> None:
    """BadInput for what can be told before anything is opened, and once instead of by each process: files that are missing."""
    door = config.front_door
    storage_token(config)
    flow_of(config)
    Keys(door.api_keys_file, door.api_keys_env)
    Keys(door.admin_token_file)
    if door.tls_cert_file:
        Certificate(door)
    access.check(door.access_log)


def _loop() -> str:
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
