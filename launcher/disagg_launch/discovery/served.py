"""The storage over HTTP, in TensorRT-LLM's protocol: a bare ASGI application that a front door mounts.

Every answer is {"result": X}, with 200 if X is true in Python's sense and 400 otherwise, an empty listing included.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from disagg_launch.discovery.memory import Memory
from disagg_launch.runtime.stores import FOREVER

LONGEST_BODY = 64 << 10
METHODS = {"/set": "POST", "/get": "GET", "/delete": "DELETE", "/expire": "GET", "/get_prefix": "GET"}
PATHS = frozenset(METHODS)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Wrong(Exception):
    """A request that cannot be carried out: (status, sentence)."""


class Served:
    """ASGI for the paths in PATHS. With a token, only bearers of it are heard (403)."""

    def __init__(self, store: Memory, token: str = "") -> None:
        self._store = store
        self._bearer = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI, http only."""
        try:
            self._admit(scope)
            result = self._set(await _item(receive)) if scope["path"] == "/set" else self._ask(scope["path"], _query(scope))
        except Wrong as wrong:
            await _answer(send, wrong.args[0], {"error": wrong.args[1]})
            return
        await _answer(send, 200 if result else 400, {"result": result})

    def _admit(self, scope: Mapping[str, Any]) -> None:
        if scope["method"] != METHODS[scope["path"]]:
            raise Wrong(405, f"{scope['path']} takes {METHODS[scope['path']]}")
        told = dict(scope["headers"]).get(b"authorization", b"")
        if self._bearer and not hmac.compare_digest(told, self._bearer):
            raise Wrong(403, "the cluster token is missing or wrong: send it as `Authorization: Bearer TOKEN`")

    def _set(self, item: Mapping[str, Any]) -> bool:
        key, value, ttl_s = item.get("key"), item.get("value", ""), item.get("ttl", FOREVER)
        if not isinstance(key, str) or not key or not isinstance(value, str):
            raise Wrong(400, "key and value must be texts, and the key not empty")
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, (int, float)):
            raise Wrong(400, "ttl must be a number of seconds")
        return self._store.set(key, value, ttl_s, bool(item.get("overwrite_if_exists", False)))

    def _ask(self, path: str, query: Mapping[str, str]) -> Any:
        name = "key_prefix" if path == "/get_prefix" else "key"
        if name not in query:
            raise Wrong(400, f"{path} needs the parameter {name}")
        key = query[name]
        if path == "/get":
            return self._store.get(key)
        if path == "/delete":
            return self._store.delete(key)
        if path == "/expire":
            return self._store.expire(key, _seconds(query.get("ttl", "")))
        return self._store.prefix(key, query.get("keys_only", "0").lower() in ("1", "true"))


def _query(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).items()}


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Wrong(400, f"/expire needs the parameter ttl, a number of seconds; found {text!r}") from None


async def _item(receive: Receive) -> Mapping[str, Any]:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST_BODY:
            raise Wrong(413, f"an entry may be {LONGEST_BODY} bytes long")
    try:
        item = json.loads(body)
    except ValueError as wrong:
        raise Wrong(400, f"the body is not JSON: {wrong}") from None
    if not isinstance(item, dict):
        raise Wrong(400, "the body must be an object with key, value, ttl")
    return item


async def _answer(send: Send, status: int, message: Any) -> None:
    body = json.dumps(message).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
