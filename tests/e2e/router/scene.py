"""A router over stand-ins in one event loop: everything real but the arithmetic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from standin import StandIn

from disagg_launch.router import config as configuration
from disagg_launch.router.processes import bound
from disagg_launch.router.serve import Application
from disagg_launch.router.serve import server as make_server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    pieces: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        return [json.loads(line[6:]) for line in self.body.decode().split("\n\n") if line.startswith("data: {")]

    @property
    def text(self) -> str:
        choices = [c for e in self.events for c in e.get("choices", ())]
        return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)

    @property
    def done(self) -> bool:
        return self.whole and self.body.endswith(b"data: [DONE]\n\n")


@dataclass
class Cluster:
    port: int
    ctx: list[StandIn]
    gen: list[StandIn]
    app: Application
    inside_port: int = 0
    cert: str = ""

    async def connect(self, inside: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the door of clients, which is TLS if it has a certificate, or to the one inside."""
        if inside or not self.cert:
            return await asyncio.open_connection("127.0.0.1", self.inside_port if inside else self.port)
        trust = ssl.create_default_context(cafile=self.cert)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=trust, server_hostname="localhost")

    async def send(self, raw: bytes, timeout_s: float = 20, inside: bool = False) -> Answer:
        """What a raw request is answered; `whole` is False if the answer was cut short."""
        reader, writer = await self.connect(inside)
        try:
            writer.write(raw)
            return await asyncio.wait_for(read_answer(reader), timeout_s)
        finally:
            writer.close()

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None, timeout_s: float = 20) -> Answer:
        return await self.send(request("POST", path, body, headers), timeout_s)

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.send(request("GET", path, None, headers))

    async def complete(self, prompt: Any, count: int = 4, **more: Any) -> Answer:
        return await self.post("/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": count, **more})


def request(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(raw)}\r\n"
    return (head + "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items()) + "\r\n").encode() + raw


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
    answer = Answer(int(head[0].split()[1]), headers, b"")
    try:
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                answer.pieces.append(await reader.readexactly(size))
                await reader.readexactly(2)
            answer.body = b"".join(answer.pieces)
        else:
            answer.body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        answer.body, answer.whole = b"".join(answer.pieces), False
    return answer


@contextlib.asynccontextmanager
async def cluster(ctx: int = 1, gen: int = 1, pause_s: float = 0.0, **config: Any) -> AsyncIterator[Cluster]:
    """A router that is ready; `front_door` and other keys go into its configuration."""
    workers = [await StandIn(role, pause_s).start() for role in ["context"] * ctx + ["generation"] * gen]
    front_door = {"health_interval_s": 0.1, "health_timeout_s": 0.5, "queue_timeout_s": 2.0, **config.pop("front_door", {})}
    raw: dict[str, Any] = {"hostname": "127.0.0.1", "port": 8000, "front_door": front_door}
    for name, mine in (("context_servers", workers[:ctx]), ("generation_servers", workers[ctx:])):
        raw[name] = {"urls": [w.url for w in mine], **config.pop(name, {})}
    parsed = configuration.parse({**raw, **config})
    server = make_server(parsed, drain_s=1)
    inside = [port for _, port in parsed.addresses[1:]]
    running = asyncio.ensure_future(server._serve([bound("127.0.0.1", port) for port in (0, *inside)]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        one = Cluster(port, workers[:ctx], workers[ctx:], server.config.app, *(inside or [0]), parsed.front_door.tls_cert_file)
        while ctx and gen and (await one.get("/health")).status != 200:
            await asyncio.sleep(0.01)
        yield one
    finally:
        server.should_exit = True
        for worker in workers:
            await worker.stop()
        await asyncio.wait_for(running, 20)
