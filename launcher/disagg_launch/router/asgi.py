"""ASGI applications beside the router's own pages: small ones, whose request and answer are whole."""

from __future__ import annotations

from typing import Any, Awaitable, Callable, Mapping
from urllib.parse import unquote

from disagg_launch.router.reply import JSON, Reply, Request

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Mounts = Mapping[str, Application]


async def answer(application: Application, request: Request, reply: Reply) -> None:
    """Let the application answer the request."""
    path, _, query = request.path.partition(b"?")
    scope = {"type": "http", "method": request.method.decode(), "path": unquote(path.decode("latin-1")), "raw_path": path}
    scope |= {"query_string": query, "headers": list(request.headers.items()), "client": (request.peer, 0)}
    status, kind, more, parts = 500, JSON, b"", []

    async def receive() -> Mapping[str, Any]:
        return {"type": "http.request", "body": bytes(request.body), "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status, kind, more
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            status, kind = message["status"], headers.pop(b"content-type", JSON)
            more = b"".join(b"%b: %b\r\n" % header for header in headers.items() if header[0] != b"content-length")
        else:
            parts.append(message.get("body", b""))

    await application(scope, receive, send)
    await reply.whole(status, kind, b"".join(parts), headers=more)
