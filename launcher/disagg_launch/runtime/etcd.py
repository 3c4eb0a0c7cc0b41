"""etcd v3 through its JSON gateway: the store's contract with leases and a watch. Keys and values travel in base64, int64 as strings.

The gateway needs no client library, which is what lets a worker in any container register.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import math
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from disagg_launch.runtime.stores import DELETED, EXPIRED, FOREVER, SET, Change, Unreachable

CALL_S = 5.0
IDLE_S = 10.0
"""A watch that was silent for so long is begun again with a fresh list: its connection may be dead without anybody saying so."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = logging.getLogger(__name__)
Json = Dict[str, Any]


class Etcd:
    """A store on one etcd cluster. `endpoints` are "host:port"; the one that answered last is asked first."""

    def __init__(self, endpoints: Sequence[str], call_s: float = CALL_S, idle_s: float = IDLE_S) -> None:
        self._endpoints: List[str] = list(endpoints)
        self._call_s = call_s
        self._idle_s = idle_s

    def set(self, key: str, value: str, ttl_s: float = FOREVER, overwrite: bool = False) -> bool:
        """See Store. With a ttl the key hangs on a lease of its own."""
        put: Json = {"key": _pack(key), "value": _pack(value)}
        if ttl_s >= 0:
            put["lease"] = self._grant(ttl_s)
        if overwrite:
            self._call("kv/put", put)
            return True
        absent = {"key": _pack(key), "target": "VERSION", "result": "EQUAL", "version": "0"}
        done = self._call("kv/txn", {"compare": [absent], "success": [{"request_put": put}]}).get("succeeded", False)
        if not done and "lease" in put:
            self._call("lease/revoke", {"ID": put["lease"]})
        return bool(done)

    def get(self, key: str) -> Optional[str]:
        """See Store."""
        found = self._range({"key": _pack(key)})[1]
        return _unpack(found[0].get("value", "")) if found else None

    def delete(self, key: str) -> bool:
        """See Store. The lease is left to run out: that it is alive is what tells a watcher that this was on purpose."""
        return int(self._call("kv/deleterange", {"key": _pack(key)}).get("deleted", 0)) > 0

    def expire(self, key: str, ttl_s: float) -> bool:
        """See Store. A key with a lease keeps the ttl it was set with; one without gets `ttl_s`."""
        found = self._range({"key": _pack(key)})[1]
        if not found:
            return False
        lease = found[0].get("lease", "0")
        if lease != "0":
            return int(self._call("lease/keepalive", {"ID": lease}).get("result", {}).get("TTL", 0)) > 0
        same = {"key": found[0]["key"], "target": "MOD", "result": "EQUAL", "mod_revision": found[0]["mod_revision"]}
        put = {"key": found[0]["key"], "value": found[0].get("value", ""), "lease": self._grant(ttl_s)}
        return bool(self._call("kv/txn", {"compare": [same], "success": [{"request_put": put}]}).get("succeeded", False))

    def prefix(self, prefix: str, keys_only: bool = False) -> Dict[str, str]:
        """See Store."""
        found = self._range({**_span(prefix), "keys_only": keys_only})[1]
        return {_unpack(one["key"]): _unpack(one.get("value", "")) for one in found}

    def watch(self, prefix: str, hear: Callable[[Change], None]) -> Callable[[], None]:
        """See WatchedStore. A thread of its own calls `hear`; while etcd is away nothing is told, and nobody is taken for gone."""
        follower = _Follower(self, prefix, hear, self._idle_s)
        follower.start()
        return follower.stop

    # ---- what is asked of the gateway -----------------------------------------------------------------------------------

    def _grant(self, ttl_s: float) -> str:
        return str(self._call("lease/grant", {"TTL": str(max(1, math.ceil(ttl_s)))})["ID"])

    def _range(self, span: Json) -> Tuple[int, List[Json]]:
        answer = self._call("kv/range", span)
        return int(answer["header"]["revision"]), answer.get("kvs", [])

    def listed(self, prefix: str) -> Tuple[int, Dict[str, str]]:
        """(revision, entries): what the prefix held at that revision."""
        revision, found = self._range(_span(prefix))
        return revision, {_unpack(one["key"]): _unpack(one.get("value", "")) for one in found}

    def lease_lives(self, lease: str) -> bool:
        """Whether a lease has time left."""
        return lease != "0" and int(self._call("lease/timetolive", {"ID": lease}).get("TTL", -1)) > 0

    def open_watch(self, prefix: str, revision: int) -> http.client.HTTPConnection:
        """A connection over which changes from `revision` on are about to be told."""
        create = {**_span(prefix), "start_revision": str(revision), "prev_kv": True}
        connection = _connection(self._endpoints[0], self._idle_s)
        connection.request("POST", "/v3/watch", json.dumps({"create_request": create}))
        return connection

    def _call(self, path: str, message: Json) -> Json:
        said = []
        for endpoint in list(self._endpoints):
            try:
                answer = _ask(endpoint, path, message, self._call_s)
            except (OSError, ValueError, http.client.HTTPException) as problem:
                said.append(f"{endpoint}: {problem or type(problem).__name__}")
                continue
            if endpoint != self._endpoints[0]:
                self._endpoints.sort(key=lambda one: one != endpoint)
            return answer
        raise Unreachable("etcd: " + "; ".join(said))


class _Follower(threading.Thread):
    """Lists, watches from the next revision on, and does so again whenever the watch ends: compaction, a lost server, silence."""

    def __init__(self, etcd: Etcd, prefix: str, hear: Callable[[Change], None], idle_s: float) -> None:
        super().__init__(name=f"etcd watch {prefix}", daemon=True)
        self._etcd, self._prefix, self._hear = etcd, prefix, hear
        self._known: Dict[str, str] = {}
        self._stopped = threading.Event()
        self._connection: Optional[http.client.HTTPConnection] = None

    def stop(self) -> None:
        """Hear nothing any more."""
        self._stopped.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Until `stop`."""
        pause_s = 0.0
        while not self._stopped.wait(pause_s):
            problem = self._round()
            if problem is None:
                pause_s = 0.0
                continue
            if not pause_s and not self._stopped.is_set():
                log.warning("watching %s: %s; trying again", self._prefix, problem or type(problem).__name__)
            pause_s = min(max(FIRST_PAUSE_S, pause_s * 2), LONGEST_PAUSE_S)

    def _round(self) -> Optional[Exception]:
        """List and watch until the watch ends; what went wrong, None if it was ended or only silent."""
        try:
            self._follow()
        except socket.timeout:
            return None
        except (OSError, ValueError, KeyError, AttributeError, http.client.HTTPException) as problem:
            return problem
        return None

    def _follow(self) -> None:
        revision, now = self._etcd.listed(self._prefix)
        for key in [key for key in self._known if key not in now]:
            self._forget(key, EXPIRED)  # how it went was not seen: whoever hears it has to look
        for key, value in now.items():
            if self._known.get(key) != value:
                self._learn(key, value)
        self._connection = self._etcd.open_watch(self._prefix, revision + 1)
        try:
            for event in _events(self._connection):
                self._apply(event)
                if self._stopped.is_set():
                    return
        finally:
            self._connection.close()

    def _apply(self, event: Json) -> None:
        key = _unpack(event["kv"]["key"])
        if event.get("type") != "DELETE":
            self._learn(key, _unpack(event["kv"].get("value", "")))
            return
        lease = event.get("prev_kv", {}).get("lease", "0")
        self._forget(key, DELETED if lease == "0" or self._etcd.lease_lives(lease) else EXPIRED)

    def _learn(self, key: str, value: str) -> None:
        self._known[key] = value
        self._tell(Change(SET, key, value))

    def _forget(self, key: str, kind: str) -> None:
        if self._known.pop(key, None) is not None:
            self._tell(Change(kind, key))

    def _tell(self, change: Change) -> None:
        if not self._stopped.is_set():
            self._hear(change)


def _events(connection: http.client.HTTPConnection) -> Iterator[Json]:
    """Changes as they come; ends when the server cancels the watch, as it does for a revision that was compacted away."""
    response = connection.getresponse()
    while True:
        text = response.readline()
        answer: Json = json.loads(text)["result"] if text else {"canceled": True}
        yield from answer.get("events", ())
        if answer.get("canceled"):
            return


def _ask(endpoint: str, path: str, message: Json, call_s: float) -> Json:
    connection = _connection(endpoint, call_s)
    try:
        connection.request("POST", f"/v3/{path}", json.dumps(message), {"Connection": "close"})
        response = connection.getresponse()
        answer: Json = json.loads(response.read())
        if response.status != 200:
            raise ValueError(answer.get("message") or answer.get("error") or f"status {response.status}")
        return answer
    finally:
        connection.close()


def _connection(endpoint: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(f"//{endpoint}")
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 2379, timeout=timeout_s)


def _span(prefix: str) -> Json:
    """The key range of a prefix: up to the next text of its length."""
    raw = prefix.encode()
    return {"key": _pack(prefix), "range_end": base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()}


def _pack(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _unpack(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "replace")
