"""Makes one worker known for as long as it serves: waits for its health, registers, refreshes, registers again after a loss, leaves.

In process it is a thread (`Registrar`); for an engine that cannot register it is a companion process: `register ... -- COMMAND`
forks one and becomes COMMAND. It never holds the worker up, and what goes wrong with the storage is its own trouble.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import socket
import threading
from typing import Any, Mapping, NoReturn, Optional, Sequence

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import processes, stores
from disagg_launch.runtime.cluster import ANYWHERE, Cluster, Member, is_loopback, new_member
from disagg_launch.runtime.stores import Store, Unreachable

HEALTH_INTERVAL_S = 0.1
RETRY_S = 1.0
LEAVE_S = 2.0
STRIKES = 2
"""So many probes in a row without a 200 make a worker unfit: a single slow answer is no reason to send its clients away."""

log = logging.getLogger(__name__)


class Registrar(threading.Thread):
    """Keeps `member` in the cluster's storage between `start` and `leave`; `health` is the path that has to answer 200 at `host`:port."""

    def __init__(self, cluster: Cluster, member: Member, store: Store, health: str = "/health", host: str = "127.0.0.1") -> None:
        super().__init__(name=f"registrar {member.worker_id}", daemon=True)
        self.member = member
        self._cluster, self._store = cluster, store
        self._health, self._host = health, host
        self._key = f"{cluster.prefix}/{member.worker_id}"
        self._left = threading.Event()
        self._strikes = 0
        self._was_in = False
        self.registered = threading.Event()

    def run(self) -> None:
        """Until `leave`."""
        pause_s = 0.0
        while not self._left.wait(pause_s):
            if not self._fit():
                pause_s = HEALTH_INTERVAL_S if not self.registered.is_set() else RETRY_S
            elif self._refreshed():
                pause_s = self._pause_s()
            else:
                pause_s = min(RETRY_S, self._pause_s())

    def leave(self) -> None:
        """Take the entry out; back within LEAVE_S or so, whether that succeeded or not."""
        self._left.set()
        self.join(LEAVE_S)
        if self._was_in:
            with contextlib.suppress(Unreachable, BackendRefused):
                self._store.delete(self._key)
        self.registered.clear()

    def _pause_s(self) -> float:
        cluster = self._cluster
        return cluster.heartbeat_s if 0 < cluster.heartbeat_s < cluster.inactive_s else cluster.inactive_s / 2

    def _fit(self) -> bool:
        """Whether the worker serves: it has to at first; later one miss is forgiven."""
        patience_s = max(1.0, self._cluster.heartbeat_s)
        if healthy(self._host, self.member.port, self._health, patience_s):
            self._strikes = 0
            return True
        self._strikes += 1
        return self.registered.is_set() and self._strikes < STRIKES

    def _refreshed(self) -> bool:
        """Whether the entry is in the storage now, and for another `inactive_s`."""
        try:
            if self.registered.is_set() and self._store.expire(self._key, self._cluster.inactive_s):
                return True
            # what was in once is ours: after a loss, or with a storage that forgot, nobody else's entry is overwritten
            done = self._store.set(self._key, self.member.to_json(), self._cluster.inactive_s, overwrite=self._was_in)
        except (Unreachable, BackendRefused) as problem:
            self._say(f"{self.member.worker_id} cannot reach its cluster: {problem}")
            return False
        self._was_in = self._was_in or done
        if done:
            self.registered.set()
            log.info("registered %s at %s", self.member.worker_id, self._cluster.uri)
            self._said = ""
        return done

    _said = ""

    def _say(self, text: str) -> None:
        if text != self._said:
            log.warning("%s; trying again", text)
            self._said = text


def healthy(host: str, port: int, path: str, patience_s: float) -> bool:
    """Whether GET answers 200 within `patience_s`."""
    connection = http.client.HTTPConnection(host, port, timeout=patience_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def register(cluster: Cluster, role: str, host: str, port: int, token: str = "", health: str = "/health") -> Registrar:
    """A started registrar for the worker that binds `host`:`port`, with an address that others can reach."""
    member = new_member(role, reachable(host, cluster), port)
    probed = "127.0.0.1" if host in ANYWHERE else host
    registrar = Registrar(cluster, member, stores.connect(cluster.uri, token), health, probed)
    registrar.start()
    return registrar


def reachable(bound: str, cluster: Cluster) -> str:
    """The address to be known by: the bound one, or where that says nothing to others, this machine's own towards the storage.

    A loopback address stays as long as the storage is on this machine too: whoever reads the entry is then here as well.
    """
    if bound not in ANYWHERE and not is_loopback(bound):
        return bound
    host, port = cluster.address
    if is_loopback(host):
        return "127.0.0.1" if bound in ANYWHERE else bound
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.connect(address)  # sends nothing: asks the routing table which of our addresses would be used
            own: str = trial.getsockname()[0]
    except OSError:
        return socket.gethostname()
    if is_loopback(bound) and not is_loopback(own):
        log.warning("the worker listens on %s only, the cluster is at %s: others cannot reach it; bind another address", bound, cluster.uri)
    return own


def become(command: Sequence[str], registrar: Mapping[str, Any], environ: Mapping[str, str]) -> NoReturn:
    """Fork the companion that registers, and become `command` in this process; only the first rank of an instance registers.

    `registrar` are the arguments of `register`.
    """
    if environ.get("DISAGG_INSTANCE_RANK", "0") == "0" and os.fork() == 0:
        os._exit(_accompany(registrar))
    try:
        os.execvpe(command[0], list(command), dict(environ))  # noqa: S606  (no shell is wanted here)
    except OSError as problem:
        raise BackendRefused(f"{command[0]!r} cannot be started ({problem.strerror}): install it or give its full path") from None


def _accompany(registrar: Mapping[str, Any]) -> int:
    """The companion's life: registered as long as its parent, the worker, lives and nobody has sent SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="registrar: %(message)s")
    parent = os.getppid()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGTERM)
    made: Optional[Registrar] = None
    try:
        made = register(**registrar)
        while os.getppid() == parent and not over.wait(RETRY_S):
            pass
    finally:
        if made is not None:
            made.leave()
    return 0
