"""One instance of the reference engine: its ranks, its HTTP server on the leader, and an orderly end.

Imports of NumPy wait until the number of BLAS threads is set.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from disagg_launch.errors import DisaggError, RankRefused
from disagg_launch.reference import options as opts

log = logging.getLogger(__name__)

FAILED = 1


def run(argv: Sequence[str], comm: Any = None) -> int:
    """Serve until told to stop; the exit status. `comm` is the instance's mpi4py communicator, or None for a single rank.

    A failed rank ends its whole instance: with several ranks this function then does not return.
    """
    limit_threads()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        options = opts.parse(argv)
        logging.getLogger().setLevel(options.log_level.upper())
        _fence()
        _check_size(options, 1 if comm is None else comm.Get_size())
        return _instance(options, comm)
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
    """The status; with several ranks the others are ended first, which ends this one too."""
    if comm is not None and comm.Get_size() > 1:
        sys.stderr.flush()
        comm.Abort(status)
    return status


def _fence() -> None:
    """Leave when the gateway that started us is gone, so that nobody computes for nobody."""
    if os.environ.get("DISAGG_GATEWAY"):
        with contextlib.suppress(ImportError):
            lease = importlib.import_module("disagg_launch.runtime.lease")
            lease.hold(_gateway_lost)


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
    rank.holders()
    rank.follow()
    return 0


def _port(options: opts.Options) -> socket.socket:
    """The bound HTTP socket, not yet listening: a clash shows before the model is loaded, and nobody connects too early.

    Bound without SO_REUSEADDR first, because two sockets that both have it may share a port until one listens. Only a port on which
    connections of an earlier server linger needs the second try.
    """
    for reuse in (0, 1):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            listener.bind(address)
            return listener
        except OSError as wrong:
            failure = wrong
    taken = failure.errno == errno.EADDRINUSE
    hint = "another program listens there, choose another --port" if taken else "choose an address of this machine with --host"
    raise RankRefused(f"cannot bind {options.host}:{options.port} ({failure.strerror or failure}): {hint}", RankRefused.PORT_TAKEN)
