"""The HTTP front of the vLLM and SGLang stand-ins: their prefill/decode dialect outside, the embedded engine's inside."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import Any, Optional

import httpx2 as httpx
import serving
import uvicorn

PATHS = ("/v1/completions", "/v1/chat/completions")
# What the embedded engine takes; routers add further fields of their own.
KEYS = {
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
    "stream_options", "ignore_eos", "logprobs",
}  # fmt: skip


class Front:
    """One instance: the embedded engine on a port of its own, and what the router sees of it."""

    def __init__(self, model: str, role: str, host: str) -> None:
        self.model, self.role, self.host = model, role, host
        with socket.socket() as free:
            free.bind((host, 0))
            self.port = free.getsockname()[1]
        self.engine = f"http://{host}:{self.port}"
        self.client = httpx.AsyncClient(timeout=120, trust_env=False)

    async def opened(self) -> None:
        """Called once, in the server's loop, before it serves."""

    async def complete(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, AsyncIterator[bytes]]:
        """Status and body of a completion request."""
        raise NotImplementedError

    async def prefill(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """Status, the answer as a plain completion, and what a decode instance needs to go on."""
        sent = {**known(body), "stream": False, "disaggregated_params": {"request_type": "context_only"}}
        sent.pop("stream_options", None)
        answer = await self.client.post(self.engine + path, json=sent)
        got = answer.json()
        if answer.status_code != 200:
            return answer.status_code, got, {}
        params = got["choices"][0].pop("disaggregated_params", None)
        return 200, got, {"params": params, "ids": got.pop("prompt_token_ids", None), "finish": got["choices"][0]["finish_reason"]}

    async def decode(self, path: str, body: dict[str, Any], left: dict[str, Any]) -> tuple[int, AsyncIterator[bytes]]:
        """The whole answer, from what prefill left."""
        sent = known(body)
        sent["disaggregated_params"] = {**left["params"], "request_type": "generation_only"}
        sent["prompt" if path == PATHS[0] else "prompt_token_ids"] = left["ids"]
        return await self.plain(path, sent)

    async def plain(self, path: str, body: dict[str, Any]) -> tuple[int, AsyncIterator[bytes]]:
        """The embedded engine's own answer."""
        answer = await self.client.send(self.client.build_request("POST", self.engine + path, json=body), stream=True)
        return answer.status_code, answer.aiter_raw()

    def told(self, path: str) -> Optional[Any]:
        """The answer to a router's question about the worker; None for a path that the engine has not."""
        served = {"id": self.model, "object": "model", "created": 0, "owned_by": "standin", "max_model_len": 4096}
        if path == "/v1/models":
            return {"object": "list", "data": [served]}
        if path in ("/server_info", "/get_server_info"):
            return {"model_path": self.model, "served_model_name": self.model, "disaggregation_mode": self.role, "version": "standin"}
        if path in ("/model_info", "/get_model_info"):
            return {"model_path": self.model, "is_generation": True, "tokenizer_path": self.model}
        return {"version": "standin"} if path == "/version" else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await receive()
            await self.opened()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        path = scope["path"]
        if path in PATHS:
            body = json.loads(await read(receive))
            status, parts = await self.complete(path, body, {k.decode(): v.decode() for k, v in scope["headers"]})
            await answer(send, status, parts, "text/event-stream" if body.get("stream") else "application/json")
        elif path in ("/health", "/health_generate"):
            await answer(send, await self.health(), lines([]))
        elif path == "/metrics":
            await answer(send, 200, lines([]), "text/plain")
        else:
            found = self.told(path)
            await answer(send, 404 if found is None else 200, lines([json.dumps(found).encode()]))

    async def health(self) -> int:
        """200 when the embedded engine is ready."""
        try:
            return (await self.client.get(self.engine + "/health")).status_code
        except httpx.HTTPError:
            return 503

    def run(self, port: int) -> int:
        """Serves until told to stop or until the engine ends; the exit status."""
        child: subprocess.Popen[bytes] = serving.start(serving.command(self.host, self.port, self.role))
        try:
            uvicorn.run(self, host=self.host, port=port, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
        finally:
            child.terminate()
        return child.wait()


def known(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that the embedded engine takes."""
    return {k: v for k, v in body.items() if k in KEYS and v is not None}


async def read(receive: Any) -> bytes:
    """A request's whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def lines(parts: list[bytes]) -> AsyncIterator[bytes]:
    """The parts, one after the other."""
    for part in parts:
        yield part


async def answer(send: Any, status: int, body: AsyncIterator[bytes], kind: str = "application/json") -> None:
    """One whole HTTP answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]})
    async for part in body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
