"""One instance of the reference engine: its ranks, its HTTP server on the leader, and an orderly end.

Imports of NumPy wait until the number of BLAS threads is set.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from disagg_launch.errors import DisaggError, RankRefused
from disagg_launch.reference import options as opts
from disagg_launch.runtime import lease

log = logging.getLogger(__name__)

FAILED = 1
LEADERS_TURN_S = 10.0  # for the leader to answer its requests and end the instance, when another rank has failed


def run(argv: Sequence[str], comm: Any = None) -> int:
    """Serve until told to stop; the exit status. `comm` is the instance's mpi4py communicator, or None for a single rank.

    A failed rank ends its whole instance: with several ranks this function then does not return.
    """
    limit_threads()
    faulthandler.register(signal.SIGUSR2)  # a look at where it is: every thread's stack, on standard error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        options = opts.parse(argv)
        logging.getLogger().setLevel(options.log_level)
        _check_size(options, 1 if comm is None else comm.Get_size())
        with _fence():
            status = _instance(options, comm)
        return _leave(comm, status) if status else 0
    except DisaggError as error:
        print(f"disagg_launch.reference: {error}", file=sys.stderr, flush=True)
        return _leave(comm, error.exit_code)
    except Exception:
        log.exception("this rank failed")
        return _leave(comm, FAILED)


def world(argv: Sequence[str]) -> Any:
    """COMM_WORLD if the command line asks for several ranks, otherwise None: a single rank does not load MPI."""
    with contextlib.suppress(DisaggError):
        options = opts.parse(argv)
        if options.tp * options.pp > 1:
            from mpi4py import MPI

            return MPI.COMM_WORLD
    return None


def limit_threads() -> None:
    """One BLAS thread per rank, unless $DISAGG_THREADS or the libraries' own variables say otherwise. Works before NumPy's first import."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        threads = os.environ.get("DISAGG_THREADS") or os.environ.get(name) or "1"
        os.environ[name] = threads


def _leave(comm: Any, status: int) -> int:
    """The status; with several ranks all of them are ended, this one too."""
    if comm is not None and comm.Get_size() > 1:
        sys.stderr.flush()
        comm.Abort(status)
    return status


@contextlib.contextmanager
def _fence() -> Iterator[None]:
    """Inside, this process leaves when the gateway that started it is gone, so that nobody computes for nobody."""
    held = lease.hold(_gateway_lost, on_stop=lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        if held:
            held.close()


def _gateway_lost(reason: str) -> None:
    log.error("the gateway is gone (%s): leaving", reason)
    os._exit(RankRefused.GATEWAY_LOST)


def _check_size(options: opts.Options, size: int) -> None:
    if size != options.tp * options.pp:
        raise RankRefused(
            f"--tp_size {options.tp} x --pp_size {options.pp} needs {options.tp * options.pp} ranks, {size} found:"
            f" start it as `mpiexec -n {options.tp * options.pp} python -m disagg_launch.reference ...`",
            RankRefused.WRONG_WORLD_SIZE,
        )


def _instance(options: opts.Options, comm: Any) -> int:
    """Build this rank and run it: the leader serves, the others follow."""
    leads = comm is None or comm.Get_rank() == 0
    listener = _port(options) if leads else None
    from disagg_launch.reference import instance

    rank, model = instance.build(options, comm)
    if listener is not None:
        with listener:
            return instance.lead(options, rank, model, listener)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the leader drains, and then says when to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        rank.holders()
        rank.follow()
    except Exception as wrong:
        log.exception("this rank failed")
        rank.comm.fail(f"{type(wrong).__name__}: {wrong}")
        time.sleep(LEADERS_TURN_S)
        raise
    return 0


def _port(options: opts.Options) -> socket.socket:
    """The bound HTTP socket, not yet listening: a clash shows before the model is loaded, and nobody connects too early.

    Bound without SO_REUSEADDR first, because two sockets that both have it may share a port until one listens. Only a port on which
    connections of an earlier server linger needs the second try.
    """
    with contextlib.suppress(OSError):
        return _bound(options, reuse=False)
    try:
        return _bound(options, reuse=True)
    except OSError as wrong:
        taken = wrong.errno == errno.EADDRINUSE
        hint = "another program listens there, choose another --port" if taken else "choose an address of this machine with --host"
        what = f"cannot bind {options.host}:{options.port} ({wrong.strerror or wrong}): {hint}"
        raise RankRefused(what, RankRefused.PORT_TAKEN) from None


def _bound(options: opts.Options, reuse: bool) -> socket.socket:
    found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(address)
        # accepted connections inherit it: without it those that linger would keep the next server, and the launcher's look, off the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        listener.close()
        raise
    return listener
