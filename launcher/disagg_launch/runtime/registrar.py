"""Makes one worker known for as long as it serves: waits for its health, registers, refreshes, registers again after a loss, leaves.

It is a thread of the worker, or of the companion process that `register` makes for an engine that cannot do it. It never holds the
worker up, and what goes wrong with the storage is its own trouble.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
import threading
from dataclasses import dataclass
from typing import Tuple

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import stores
from disagg_launch.runtime.cluster import ANYWHERE, Cluster, is_loopback, new_member
from disagg_launch.runtime.metadata import Metadata, new_entry
from disagg_launch.runtime.stores import Store, Unreachable

HEALTH_INTERVAL_S = 0.1
RETRY_S = 1.0
LEAVE_S = 2.0
STRIKES = 2
"""So many probes in a row without a 200 make a worker unfit: a single slow answer is no reason to send its clients away."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What is kept in the storage: refreshed every `beat_s`, gone `ttl_s` after the last time (FOREVER: only looked after)."""

    key: str
    value: str
    ttl_s: float
    beat_s: float


@dataclass(frozen=True)
class Probed:
    """Where the worker is asked whether it serves: `health` has to answer 200."""

    host: str
    port: int
    health: str = "/health"


class Registrar(threading.Thread):
    """Keeps `entry` in `store` between `start` and `leave`, from the moment on at which the worker serves."""

    def __init__(self, store: Store, entry: Entry, worker: Probed) -> None:
        super().__init__(name=f"registrar {entry.key}", daemon=True)
        self.entry = entry
        self._store, self._worker = store, worker
        self._left = threading.Event()
        self._strikes = 0
        self._was_in = False
        self._said = ""
        self.registered = threading.Event()

    def run(self) -> None:
        """Until `leave`."""
        pause_s = 0.0
        while not self._left.wait(pause_s):
            if not self._fit():
                pause_s = HEALTH_INTERVAL_S if not self.registered.is_set() else min(RETRY_S, self.entry.beat_s)
            else:
                pause_s = self.entry.beat_s if self._kept() else min(RETRY_S, self.entry.beat_s)
        if self._was_in:
            with contextlib.suppress(Unreachable, BackendRefused):
                self._store.delete(self.entry.key)

    def leave(self) -> None:
        """Have the entry taken out; back within LEAVE_S, also if that takes longer: the worker has requests to finish meanwhile."""
        self._left.set()
        self.join(LEAVE_S)
        self.registered.clear()

    def _fit(self) -> bool:
        """Whether the worker serves: it has to at first; later one miss is forgiven."""
        if healthy(self._worker, max(1.0, self.entry.beat_s)):
            self._strikes = 0
            return True
        self._strikes += 1
        return self.registered.is_set() and self._strikes < STRIKES

    def _kept(self) -> bool:
        """Whether the entry is in the storage now, and for another `ttl_s`."""
        try:
            if self.registered.is_set() and self._refreshed():
                return True
            # what was in once is ours: after a loss, or with a storage that forgot, nobody else's entry is overwritten
            done = self._store.set(self.entry.key, self.entry.value, self.entry.ttl_s, overwrite=self._was_in)
        except (Unreachable, BackendRefused) as problem:
            self._say(str(problem))
            return False
        if done:
            self._was_in = True
            self._said = ""
            self.registered.set()
            log.info("registered as %s", self.entry.key)
        return done

    def _refreshed(self) -> bool:
        if self.entry.ttl_s < 0:
            return self._store.get(self.entry.key) is not None
        return self._store.expire(self.entry.key, self.entry.ttl_s)

    def _say(self, problem: str) -> None:
        if problem != self._said:
            log.warning("%s is not kept up to date: %s; trying again", self.entry.key, problem)
            self._said = problem


def healthy(worker: Probed, patience_s: float) -> bool:
    """Whether GET answers 200 within `patience_s`."""
    connection = http.client.HTTPConnection(worker.host, worker.port, timeout=patience_s)
    try:
        connection.request("GET", worker.health, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):  # an entry's host may be no name at all
        return False
    finally:
        connection.close()


def register(cluster: Cluster, role: str, host: str, port: int, token: str = "", health: str = "/health") -> Registrar:
    """A started registrar in a cluster, for the worker that binds `host`:`port`, with an address that others can reach."""
    one = new_member(role, reachable(host, cluster.address), port)
    beats = 0 < cluster.heartbeat_s < cluster.inactive_s
    if not beats:
        log.warning("a heartbeat of %g s does not fit a time-out of %g s: half of that is taken", cluster.heartbeat_s, cluster.inactive_s)
    entry = Entry(
        f"{cluster.prefix}/{one.worker_id}", one.to_json(), cluster.inactive_s, cluster.heartbeat_s if beats else cluster.inactive_s / 2
    )
    return _started(stores.connect(cluster.uri, token), entry, host, port, health)


def announce(metadata: Metadata, role: str, host: str, port: int, model: str, health: str = "/health") -> Registrar:
    """A started registrar at a metadata server."""
    key, value = new_entry(role, reachable(host, (metadata.hostname, metadata.port)), port, model)
    return _started(metadata.store(), Entry(key, value, stores.FOREVER, metadata.refresh_interval), host, port, health)


def _started(store: Store, entry: Entry, host: str, port: int, health: str) -> Registrar:
    registrar = Registrar(store, entry, Probed("127.0.0.1" if host in ANYWHERE else host, port, health))
    registrar.start()
    return registrar


def reachable(bound: str, storage: Tuple[str, int]) -> str:
    """The address to be known by: $DISAGG_ADVERTISE, the bound one, or where that says nothing to others, ours towards the storage.

    A loopback address stays as long as the storage is on this machine too: whoever reads the entry is then here as well.
    """
    told = os.environ.get("DISAGG_ADVERTISE")
    if told or (bound not in ANYWHERE and not is_loopback(bound)):
        return told or bound
    host, port = storage
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
        log.warning("the worker listens on %s only, the cluster is at %s: others cannot reach it; bind another address", bound, host)
    return own
