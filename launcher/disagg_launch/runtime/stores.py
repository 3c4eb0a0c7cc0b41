"""Where workers' entries are kept: one contract, and its client for the front door's own storage. etcd's is in `etcd`."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Optional, Protocol
from urllib.parse import urlencode, urlsplit

from disagg_launch.errors import BackendRefused

FOREVER = -1
CALL_S = 5.0
SET, DELETED, EXPIRED = "set", "deleted", "expired"


class Unreachable(OSError):
    """The storage did not answer, or answered nonsense: nothing is known about the entry."""


@dataclass(frozen=True)
class Change:
    """What happened to a key: "set" (with its value), "deleted" by somebody, or "expired": nobody refreshed it."""

    kind: str
    key: str
    value: str = ""


class Store(Protocol):
    """The contract. Keys and values are texts, times seconds. Every call raises Unreachable when the storage cannot be asked."""

    def set(self, key: str, value: str, ttl_s: float = FOREVER, overwrite: bool = False) -> bool:
        """Whether the entry was put in; False if the key is taken and may not be overwritten."""

    def get(self, key: str) -> Optional[str]:
        """The value; None if there is no such key."""

    def delete(self, key: str) -> bool:
        """Whether there was something to delete."""

    def expire(self, key: str, ttl_s: float) -> bool:
        """Whether the key is there; if so it lives `ttl_s` from now."""

    def prefix(self, prefix: str, keys_only: bool = False) -> Dict[str, str]:
        """All entries whose key begins so; values are "" with `keys_only`."""


class WatchedStore(Store, Protocol):
    """A store that also tells what changes."""

    def watch(self, prefix: str, hear: Callable[[Change], None]) -> Callable[[], None]:
        """Tell `hear` every entry there is and then every change, without a gap; calling what comes back ends it.

        Applied in order to an empty map, what `hear` is told keeps the map equal to the prefix. It may be called in another thread.
        """


class HttpStore:
    """Client of the storage that a front door serves, ours or TensorRT-LLM's."""

    def __init__(self, uri: str, token: str = "", call_s: float = CALL_S) -> None:
        self._parts = urlsplit(uri)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._call_s = call_s

    def set(self, key: str, value: str, ttl_s: float = FOREVER, overwrite: bool = False) -> bool:
        """See Store."""
        item = {"key": key, "value": value, "expire_time": -1, "ttl": ttl_s, "overwrite_if_exists": overwrite}
        return bool(self._call("POST", "/set", item=item))

    def get(self, key: str) -> Optional[str]:
        """See Store."""
        found: Optional[str] = self._call("GET", "/get", {"key": key})
        return found

    def delete(self, key: str) -> bool:
        """See Store."""
        return bool(self._call("DELETE", "/delete", {"key": key}))

    def expire(self, key: str, ttl_s: float) -> bool:
        """See Store."""
        return bool(self._call("GET", "/expire", {"key": key, "ttl": f"{ttl_s:g}"}))

    def prefix(self, prefix: str, keys_only: bool = False) -> Dict[str, str]:
        """See Store."""
        return dict(self._call("GET", "/get_prefix", {"key_prefix": prefix, "keys_only": int(keys_only)}) or {})

    def _call(self, method: str, path: str, query: Optional[Mapping[str, Any]] = None, item: Optional[Mapping[str, Any]] = None) -> Any:
        connection = self._connection()
        target = path + ("?" + urlencode(query) if query else "")
        body = None if item is None else json.dumps(item).encode()
        headers = {**self._headers, "Connection": "close", **({"Content-Type": "application/json"} if body else {})}
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status in (401, 403):
                raise BackendRefused(f"{self._parts.netloc} refuses the cluster token: workers and front door need the same one")
            # 400 with a result is this protocol's way to say false
            return json.loads(text)["result"]
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as problem:
            raise Unreachable(f"{self._parts.netloc}{path}: {problem or type(problem).__name__}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._call_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=self._call_s)


def connect(uri: str, token: str = "") -> Store:
    """The store at a cluster_uri; nothing is asked yet."""
    if uri.startswith("etcd://"):
        from disagg_launch.runtime.cluster import endpoints
        from disagg_launch.runtime.etcd import Etcd

        return Etcd(endpoints(uri))
    return HttpStore(uri, token)
