"""A small asynchronous HTTP client: the status of one path, or one JSON message to the router's admin side."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

COMPLETIONS = "/v1/completions"


@dataclass(frozen=True)
class Seen:
    """What one probe saw: `status` 0 when nothing answered; `listening` when the connection was accepted."""

    status: int
    listening: bool
    detail: str

    @property
    def healthy(self) -> bool:
        """Only 200 is up: 503 while loading is an answer, not health."""
        return self.status == 200


async def probe(host: str, port: int, path: str, patience_s: float) -> Seen:
    """What GET http://host:port/path answers within `patience_s`; never raises."""
    return await _ask(host, port, f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode(), path, patience_s)


async def post(host: str, port: int, path: str, message: Dict[str, Any], token: str, patience_s: float) -> Seen:
    """What POST of a JSON message answers within `patience_s`; never raises."""
    seen, _ = await ask(host, port, path, message, token, patience_s)
    return seen


async def ask(host: str, port: int, path: str, message: Optional[Mapping[str, Any]], token: str, patience_s: float) -> Tuple[Seen, Any]:
    """As `post`, and the JSON that was answered, None if it is none; a GET if there is no message."""
    body = b"" if message is None else json.dumps(message).encode()
    verb = "GET" if message is None else "POST"
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"{verb} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{bearer}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = bytearray()
    seen = await _ask(host, port, head.encode() + body, path, patience_s, answer)
    try:
        return seen, json.loads(answer.partition(b"\r\n\r\n")[2])
    except ValueError:
        return seen, None


async def model(host: str, port: int, patience_s: float) -> str:
    """The name that a worker answers to; "" if it does not say."""
    _, told = await ask(host, port, "/v1/models", None, "", patience_s)
    try:
        return str(told["data"][0]["id"])
    except (TypeError, KeyError, IndexError):
        return ""


async def _ask(host: str, port: int, request: bytes, path: str, patience_s: float, rest: Optional[bytearray] = None) -> Seen:
    """What came back; what follows the first line goes into `rest` if it is wanted."""
    writer: Optional[asyncio.StreamWriter] = None
    try:
        reader, opened = await asyncio.wait_for(asyncio.open_connection(host, port), patience_s)
        writer = opened
        writer.write(request)
        words = (await asyncio.wait_for(reader.readline(), patience_s)).split(None, 2)
        status = int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0
        if rest is not None:
            rest += await asyncio.wait_for(reader.read(), patience_s)
        return Seen(status, True, f"{path} answers {status}" if status else f"what listens on port {port} does not speak HTTP")
    except asyncio.TimeoutError:
        return Seen(0, writer is not None, f"no answer from {host}:{port} within {patience_s:g} s")
    except ConnectionRefusedError:
        return Seen(0, False, f"nobody listens on {host}:{port}")
    except (OSError, ValueError) as problem:
        return Seen(0, writer is not None, f"{host}:{port}: {problem.strerror if isinstance(problem, OSError) else problem}")
    finally:
        if writer is not None:
            writer.close()
