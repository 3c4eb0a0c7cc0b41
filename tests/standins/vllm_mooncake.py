"""vLLM's Mooncake connector: decode learns at prefill's bootstrap server where its workers are, and asks for a transfer by id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import dialect
import httpx2 as httpx
import side_channel
import uvicorn

NEEDED = ("remote_engine_id", "remote_bootstrap_addr", "transfer_id")


class Mooncake(dialect.Front):
    """Prefill keeps the KV cache under the request's transfer_id and says nothing of it in its answer."""

    def __init__(self, model: str, role: str, host: str, bootstrap_port: int) -> None:
        super().__init__(model, role, host)
        self.bootstrap_port, self.side = bootstrap_port, side_channel.SideChannel()
        self.engine_id = f"{host}-{bootstrap_port}"
        self.worker = ""

    async def opened(self) -> None:
        """A prefill instance's bootstrap server listens from the start, its worker on a port that the system gives."""
        if self.role == "CONTEXT":
            self.worker = f"{self.host}:{await self.side.open(self.host, 0)}"
            config = uvicorn.Config(self.bootstrap, self.host, self.bootstrap_port, interface="asgi3", lifespan="off", log_level="warning")
            self.serving = asyncio.create_task(uvicorn.Server(config).serve())

    async def bootstrap(self, scope: Any, receive: Any, send: Any) -> None:
        """GET /query: the engine's id and its workers' addresses, by data-parallel, tensor and pipeline rank."""
        known = {"0": {"engine_id": self.engine_id, "worker_addr": {"0": {"0": self.worker}}}}
        status = 200 if (scope["method"], scope["path"]) == ("GET", "/query") else 404
        await dialect.answer(send, status, dialect.lines([json.dumps(known).encode()]))

    async def complete(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, AsyncIterator[bytes]]:
        """As the request's kv_transfer_params say. If they are not whole the real decode hides it, and computes the prompt again."""
        params = body.get("kv_transfer_params") or {}
        if self.role == "CONTEXT":
            if not (params.get("do_remote_decode") and params.get("transfer_id")):
                return refusal("Missing transfer_id in kv_transfer_params from router!")
            status, got, left = await self.prefill(path, body)
            self.side.place(params["transfer_id"]).set_result(left)
            return status, dialect.lines([json.dumps(got).encode()])
        if not (params.get("do_remote_prefill") and all(params.get(name) for name in NEEDED)):
            return refusal(f"Got invalid KVTransferParams: {params}")
        address = params["remote_bootstrap_addr"]
        query = (address if "://" in address else f"http://{address}") + "/query"
        async with httpx.AsyncClient(trust_env=False) as client:
            found = (await client.get(query)).json()["0"]
        if found["engine_id"] != params["remote_engine_id"]:
            return refusal(f"engine {params['remote_engine_id']} is not at {address}")
        worker = urlsplit(f"tcp://{found['worker_addr']['0']['0']}")
        left = await side_channel.fetch(str(worker.hostname), int(worker.port or 0), params["transfer_id"])
        return await self.decode(path, body, left)


def refusal(text: str) -> tuple[int, AsyncIterator[bytes]]:
    """400 with the text."""
    return 400, dialect.lines([json.dumps({"error": {"message": text}}).encode()])
