"""Building the ranks of an instance, and the leader's life: model loop in one thread, HTTP server in the main one, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from disagg_launch.errors import BadInput
from disagg_launch.plan import GENERATION
from disagg_launch.reference import grid, kv, models
from disagg_launch.reference.batch import Scheduler
from disagg_launch.reference.comm import Comm, Solo
from disagg_launch.reference.grid import Shape
from disagg_launch.reference.http import App
from disagg_launch.reference.models import Model
from disagg_launch.reference.options import Options
from disagg_launch.reference.rank import Rank
from disagg_launch.reference.request import Limits
from disagg_launch.runtime import cluster, registrar
from disagg_launch.runtime.registrar import Registrar

log = logging.getLogger(__name__)

DRAIN_S = 5.0  # for requests under way when told to stop
FLUSH_S = 0.5  # for the error answers when a rank has failed
FAILED = 1
POOL_TOKENS = 32768
WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104


def build(options: Options, comm: Any) -> tuple[Rank, Model]:
    """This rank of the instance and its model; where prompts are computed for others, with its KV port open. Called by every rank."""
    number = 0 if comm is None else comm.Get_rank()
    model = models.load(options.model)
    place = grid.place(model.shape, options.tp, options.pp, number)
    own = leaders = socket.gethostname()
    link: Comm = Solo()
    if options.tp * options.pp > 1:
        from disagg_launch.reference.mpi import MpiComm  # a single rank runs without MPI

        leaders = comm.bcast(own, root=0)
        link = MpiComm(comm, reachable(options.host))
    host = options.host if own == leaders else own
    exports = None if options.role == GENERATION else kv.Exports(host, reachable(host), place.rect)
    return Rank(model, options.tp, options.pp, link, exports), model


def reachable(host: str) -> str:
    """The address that others are told: $DISAGG_ADVERTISE, the host we were given, or this machine's name; never a wildcard."""
    return os.environ.get("DISAGG_ADVERTISE") or (socket.gethostname() if host in WILDCARDS else host)


def limits(options: Options, shape: Shape) -> Limits:
    """The instance's bounds. BadInput if the sequence length is beyond the model's context."""
    sequence = options.max_seq_len or shape.context
    if sequence > shape.context:
        raise BadInput(f"max_seq_len {sequence} is beyond the context of {options.model}, {shape.context} tokens")
    pool = options.pool_tokens or max(POOL_TOKENS, sequence)
    iteration = max(options.max_num_tokens, options.max_batch_size)
    return Limits(options.max_batch_size, sequence, iteration, pool, options.buffer_tokens or pool, options.transfer_timeout_s)


def lead(options: Options, rank: Rank, model: Model, listener: socket.socket) -> int:
    """Serve on the bound socket until SIGTERM or SIGINT, or until a rank fails; the exit status."""
    scheduler = Scheduler(rank, limits(options, model.shape), model.tokenizer, model.fingerprint)
    about = {"model": model.name, "created": int(time.time()), "role": options.role or None, "tp_size": options.tp, "pp_size": options.pp}
    app = App(model, scheduler, about | {"max_seq_len": scheduler.limits.sequence})
    loop = threading.Thread(target=_run, args=(scheduler,), name="model", daemon=True)
    loop.start()
    known = _announce(options, listener.getsockname()[1], model.name)
    status = asyncio.run(_serve(app, scheduler, listener, f"{options.role or 'worker'} of {model.name}", known))
    if status == 0:
        scheduler.stop()
        loop.join()
    return status


def _announce(options: Options, port: int, model: str) -> list[Registrar]:
    """Those who make this worker known from its first healthy answer on; none without service discovery."""
    made = []
    if options.cluster:
        made.append(registrar.register(options.cluster, options.role, options.host, port, cluster.token(os.environ)))
    if options.metadata:
        made.append(registrar.announce(options.metadata, options.role, options.host, port, model))
    return made


def _run(scheduler: Scheduler) -> None:
    try:
        scheduler.run()
    except Exception:
        log.exception("the model loop failed")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would end the process by the signal instead of with status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `_serve` handles signals."""
        yield


async def _serve(app: App, scheduler: Scheduler, listener: socket.socket, what: str, known: list[Registrar]) -> int:
    """Serve until a signal (0) or a failure (1)."""
    loop = asyncio.get_running_loop()
    told, failed = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)

    def on_failure(reason: str) -> None:
        loop.call_soon_threadsafe(failed.set)

    scheduler.on_failure = on_failure
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=int(DRAIN_S) + 1)
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    log.info("serving as %s on %s:%d", what, *listener.getsockname()[:2])
    waits = [serving, asyncio.ensure_future(told.wait()), asyncio.ensure_future(failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    # nobody is sent here any more, and only then is anybody refused
    await asyncio.gather(*(asyncio.to_thread(one.leave) for one in known))
    app.draining = True
    if failed.is_set():
        log.error("failed: %s", scheduler.failed)
        loop.call_later(FLUSH_S, setattr, server, "force_exit", True)
    else:
        log.info("told to stop: %d requests under way get %g s", scheduler.load, DRAIN_S)
        loop.call_later(DRAIN_S, scheduler.lose, "the worker is stopping")
    server.should_exit = True
    await serving
    scheduler.on_failure = lambda _: None  # this loop ends now
    return FAILED if failed.is_set() and not told.is_set() else 0
