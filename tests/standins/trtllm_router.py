"""`trtllm-serve disaggregated`: the context-first router of TensorRT-LLM's interface, as small as it can be.

Static urls, the disagg cluster with its HTTP storage or etcd, and the legacy metadata server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Optional

import httpx2 as httpx
import trtllm_discovery as discovery
import trtllm_models as models
import uvicorn

PATHS = ("/v1/completions", "/v1/chat/completions")
CONTEXT, GENERATION = 0, 1


class Storage:
    """The HTTP storage of a cluster: key -> (value, deadline on the monotonic clock)."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[str, float]] = {}

    def prefix(self, prefix: str) -> dict[str, str]:
        """What lives below `prefix`."""
        now = time.monotonic()
        self.items = {k: v for k, v in self.items.items() if v[1] > now}
        return {k: v for k, (v, _) in self.items.items() if k.startswith(prefix)}

    def call(self, path: str, query: dict[str, str], body: Any) -> Any:
        """The result of one storage request."""
        self.prefix("")
        if path == "/set":
            if body["key"] in self.items and not body.get("overwrite_if_exists"):
                return False
            self.items[body["key"]] = (body.get("value", ""), time.monotonic() + (body["ttl"] if body.get("ttl", -1) > 0 else 1e9))
            return True
        if path == "/get_prefix":
            return self.prefix(query["key_prefix"])
        key = query["key"]
        if path == "/delete":
            return self.items.pop(key, None) is not None
        if path == "/expire" and key in self.items:
            self.items[key] = (self.items[key][0], time.monotonic() + int(query["ttl"]))
            return True
        return self.items[key][0] if path == "/get" and key in self.items else None


class Router:
    """Who is there, and the two-step request."""

    def __init__(self, config: models.RouterConfig, metadata: Optional[models.Metadata], request_s: int) -> None:
        self.config, self.metadata, self.storage = config, metadata, Storage()
        self.client = httpx.AsyncClient(timeout=request_s, trust_env=False)
        self.turn = itertools.count()

    def workers(self) -> tuple[list[str], list[str]]:
        """host:port of context and generation workers."""
        if self.metadata:
            found = discovery.EtcdStorage(f"{self.metadata.hostname}:{self.metadata.port}").prefix("trtllm/")
            told = [json.loads(v) for v in found.values()]
            context, generation = ([t["url"].removeprefix("http://") for t in told if t["server_role"] == r] for r in discovery.ROLE_IDS)
            return context, generation
        cluster = self.config.disagg_cluster
        if cluster is None:
            return self.config.context_servers.urls or [], self.config.generation_servers.urls or []
        rows = self.registered()
        context, generation = ([f"{r['host']}:{r['port']}" for r in rows if r["role"] == role] for role in (CONTEXT, GENERATION))
        return context, generation

    def ready(self) -> bool:
        """Whether there are enough workers."""
        context, generation = self.workers()
        cluster = self.config.disagg_cluster
        least = cluster.minimal_instances if cluster else models.MinimalInstances()
        return len(context) >= least.context_servers and len(generation) >= least.generation_servers

    def info(self) -> dict[str, Any]:
        """/cluster_info: with a cluster, its workers as they registered."""
        cluster, told = self.config.disagg_cluster, {"is_ready": self.ready()}
        if cluster is None:
            return told
        rows = self.registered()
        current = {"context_servers": [r for r in rows if r["role"] == CONTEXT]}
        current["generation_servers"] = [r for r in rows if r["role"] == GENERATION]
        return {**told, "current_workers": current, "minimal_instances": vars(cluster.minimal_instances)}

    def registered(self) -> list[dict[str, Any]]:
        """The entries of the cluster's workers."""
        cluster = self.config.disagg_cluster
        prefix = f"/trtllm-disagg/{cluster.cluster_name}/workers/"
        store = self.storage if cluster.cluster_uri.startswith("http") else discovery.EtcdStorage(cluster.cluster_uri)
        return [json.loads(v) for v in store.prefix(prefix).values()]

    async def wait_for_static(self, limit_s: int) -> None:
        """Returns when every listed worker is healthy; TimeoutError after `limit_s`."""
        if self.config.disagg_cluster or self.metadata:
            return
        deadline = time.monotonic() + limit_s
        for url in (url for role in self.workers() for url in role):
            while not await self.healthy(url):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} is not ready")
                await asyncio.sleep(0.2)

    async def healthy(self, url: str) -> bool:
        """Whether the worker's /health answers 200."""
        try:
            return (await self.client.get(f"http://{url}/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def complete(self, path: str, body: dict[str, Any]) -> tuple[int, AsyncIterator[bytes], bool]:
        """(status, body, is a stream): context first, then generation with what context gave."""
        context, generation = await asyncio.to_thread(self.workers)
        turn = next(self.turn)
        first = {k: v for k, v in body.items() if k != "stream_options"} | {"stream": False}
        first["disaggregated_params"] = {"request_type": "context_only", "disagg_request_id": random.getrandbits(62)}
        answer = await self.client.post(f"http://{context[turn % len(context)]}{path}", json=first)
        if answer.status_code != 200:
            return 500, once({"detail": f"Internal server error {answer.text}"}), False
        got = answer.json()
        choice = got["choices"][0]
        params = choice.pop("disaggregated_params")
        if choice["finish_reason"] not in ("length", "not_finished"):
            return (200, lines([b"data: [DONE]\n\n"]), True) if body.get("stream") else (200, once(got), False)
        second = {**body, "disaggregated_params": {**params, "request_type": "generation_only"}}
        second["prompt" if path == PATHS[0] else "prompt_token_ids"] = got["prompt_token_ids"]
        url = f"http://{generation[turn % len(generation)]}{path}"
        sent = await self.client.send(self.client.build_request("POST", url, json=second), stream=True)
        return sent.status_code, sent.aiter_raw(), bool(body.get("stream"))


async def lines(parts: list[bytes]) -> AsyncIterator[bytes]:
    """The parts, one after the other."""
    for part in parts:
        yield part


def once(value: Any) -> AsyncIterator[bytes]:
    """A JSON body."""
    return lines([json.dumps(value).encode()])


async def read(receive: Any) -> bytes:
    """A request's whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def answer(send: Any, status: int, body: AsyncIterator[bytes], kind: str = "application/json") -> None:
    """One whole HTTP answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]})
    async for part in body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def complete(router: Router, path: str, body: bytes, send: Any) -> None:
    """A completion, or the upstream answer of a cluster that is not ready."""
    if not await asyncio.to_thread(router.ready):
        await answer(send, 500, once({"detail": "Internal server error Cluster is not ready"}))
        return
    status, parts, stream = await router.complete(path, json.loads(body))
    await answer(send, status, parts, "text/event-stream" if stream else "application/json")


def application(router: Router, start_s: int) -> Any:
    """The ASGI application."""

    async def live(receive: Any, send: Any) -> None:
        await receive()
        try:
            await router.wait_for_static(start_s)
        except TimeoutError as late:
            await send({"type": "lifespan.startup.failed", "message": str(late)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        path, query = scope["path"], dict(httpx.QueryParams(scope["query_string"].decode()))
        body = await read(receive)
        if path in PATHS and scope["method"] == "POST":
            await complete(router, path, body, send)
        elif path == "/health":
            ready = not router.config.disagg_cluster or await asyncio.to_thread(router.ready)
            await answer(send, 200 if ready else 500, lines([]))
        elif path == "/cluster_info":
            await answer(send, 200, once(await asyncio.to_thread(router.info)))
        elif path == "/version":
            await answer(send, 200, once({"version": "standin"}))
        elif path in ("/set", "/get", "/delete", "/expire", "/get_prefix"):
            result = router.storage.call(path, query, json.loads(body or b"null"))
            await answer(send, 200 if result else 400, once({"result": result}))
        else:
            await answer(send, 404, once({"detail": "Not Found"}))

    return app


def run(config: models.RouterConfig, metadata: Optional[models.Metadata], start_s: int, request_s: int) -> None:
    """Serves until it is told to stop."""
    app = application(Router(config, metadata, request_s), start_s)
    uvicorn.run(app, host=config.hostname, port=config.port, log_level="warning", lifespan="on")
