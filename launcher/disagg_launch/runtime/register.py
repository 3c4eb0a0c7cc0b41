"""`register ... -- COMMAND`: for engines that cannot register. Forks a companion that does it, and becomes COMMAND, under the same PID.

The companion leaves with the worker: when the worker ends, or is told to end, the entry is taken out.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Callable, List, Mapping, NoReturn, Sequence

from disagg_launch.errors import BackendRefused, BadInput
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime import processes

if TYPE_CHECKING:
    from disagg_launch.runtime.registrar import Registrar

LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options, those that TensorRT-LLM has in its spelling."""
    parser.add_argument(
        "--disagg_cluster_uri", "--disagg-cluster-uri", required=True, help="http://router:port or etcd://host:port[,etcd://...]"
    )
    parser.add_argument("--server_role", "--server-role", required=True, help="CONTEXT or GENERATION")
    parser.add_argument("--host", default="localhost", help="the address that the worker binds")
    parser.add_argument("--port", type=int, required=True, help="the worker's port")
    parser.add_argument("--health", default="/health", help="the path that answers 200 when the worker serves")
    parser.add_argument("--cluster_name", "--cluster-name", default=clusters.Cluster.name)
    parser.add_argument("--heartbeat_interval_sec", type=float, default=clusters.Cluster.heartbeat_s)
    parser.add_argument("--inactive_timeout_sec", "--inactive_interval_sec", type=float, default=clusters.Cluster.inactive_s)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the worker; without it, register and wait")


def main(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command; comes back only when there is no COMMAND to become."""
    given = {
        "cluster_uri": options.disagg_cluster_uri,
        "cluster_name": options.cluster_name,
        "heartbeat_interval_sec": options.heartbeat_interval_sec,
        "inactive_timeout_sec": options.inactive_timeout_sec,
    }
    cluster, role = clusters.parse(given), clusters.role_of(options.server_role)
    if cluster is None:
        raise BadInput("--disagg_cluster_uri: it is empty")
    token = clusters.token(environ)
    command: List[str] = options.words[1:] if options.words[:1] == ["--"] else options.words

    def begin() -> Registrar:
        from disagg_launch.runtime.registrar import register  # only here, because a rank must not pay for an HTTP client

        return register(cluster, role, options.host, options.port, token, options.health)

    if not command:
        return _accompany(begin, parent=0)
    if environ.get("DISAGG_INSTANCE_RANK", "0") == "0":  # the first rank has the instance's port
        parent = os.getpid()
        if os.fork() == 0:
            os._exit(_accompany(begin, parent))
    return _become(command, environ)


def _become(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], list(command), dict(environ))  # noqa: S606  (no shell is wanted here)
    except OSError as problem:
        raise BackendRefused(f"{command[0]!r} cannot be started ({problem.strerror}): install it or give its full path") from None


def _accompany(begin: Callable[[], Registrar], parent: int) -> int:
    """Be registered until the parent ends (0: there is none) or a signal comes."""
    logging.basicConfig(level=logging.INFO, format="registrar: %(message)s")
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    if parent:
        processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGTERM)
    registrar = begin()
    try:
        while not over.wait(LOOK_S) and (not parent or os.getppid() == parent):
            pass
    finally:
        registrar.leave()
    return 0
