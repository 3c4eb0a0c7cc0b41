"""The page over HTTP: an ASGI application below /ui that a front door mounts.

Static files are for everybody and say nothing; data/now, data/layout, data/timeline and data/log for those who may look; POST do for those
who may act.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Optional, TypeVar
from urllib.parse import parse_qs

import orjson

from disagg_launch.errors import BadInput
from disagg_launch.page.deeds import Deeds
from disagg_launch.page.doorman import Doorman
from disagg_launch.page.series import Series
from disagg_launch.page.source import Source
from disagg_launch.page.tail import piece
from disagg_launch.router.exchange import Refused, refusal

STATIC = Path(__file__).parent / "static"
JSON = b"application/json"
KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
POLICY = b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = [
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]

Number = TypeVar("Number", int, float)
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Site:
    """ASGI for /ui and all below it."""

    def __init__(self, doorman: Doorman, source: Source, series: Series, deeds: Deeds, run: Optional[Path]) -> None:
        self._doorman, self._source, self._series, self._deeds, self._run = doorman, source, series, deeds, run
        self._files = {one.name: (KINDS[one.suffix], one.read_bytes()) for one in STATIC.iterdir() if one.suffix in KINDS}
        self._files[""] = self._files["index.html"]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI, http only."""
        path, method = scope["path"].removeprefix("/ui"), scope["method"]
        headers = dict(scope["headers"])
        try:
            if path == "":
                # relative, so that it holds behind a proxy that puts something in front of the path
                await _answer(send, 307, KINDS[".html"], b"", [(b"location", b"ui/")])
            elif path == "/do":
                if method != "POST":
                    raise refusal(405, "do takes POST")
                self._doorman.same_origin(headers)
                body = (await receive()).get("body", b"")
                done = await self._deeds.carry_out(body, headers.get(b"authorization", b""), scope["client"][0])
                await _answer(send, 200, JSON, orjson.dumps(done))
            elif method not in ("GET", "HEAD"):
                raise refusal(405, f"/ui{path} takes GET")
            elif path.startswith("/data/"):
                self._doorman.admit(headers)
                await _answer(send, 200, JSON, await self._data(path[6:], _query(scope)))
            else:
                await self._static(path[1:], send)
        except Refused as no:
            await _answer(send, no.status, JSON, no.body)

    async def _static(self, name: str, send: Send) -> None:
        if name not in self._files:
            raise refusal(404, f"/ui/{name} is not served here")
        await _answer(send, 200, *self._files[name])

    async def _data(self, name: str, query: Mapping[str, str]) -> bytes:
        if name == "log" and self._run is not None:
            begin = _number(query, "from", -1, int)
            return orjson.dumps(
                await asyncio.get_running_loop().run_in_executor(None, piece, self._run / "logs", query.get("of", ""), begin)
            )
        try:
            view = await self._source.view()
        except (OSError, ValueError, KeyError, BadInput) as wrong:
            raise refusal(503, f"the run folder cannot be read: {wrong}") from None
        if name == "now":
            return view.now[:-1] + b',"series":' + orjson.dumps(self._series.since(_number(query, "since", 0.0, float))) + b"}"
        if name == "layout":
            return view.layout
        if name == "timeline":
            return view.timeline
        raise refusal(404, f"/ui/data/{name} is not served here")


def _query(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}


def _number(query: Mapping[str, str], name: str, default: Number, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(query[name]) if name in query else default
    except ValueError:
        raise refusal(400, f"{name}: a number is needed, found {query[name]!r}") from None


async def _answer(send: Send, status: int, kind: bytes, body: bytes, more: list[tuple[bytes, bytes]] = []) -> None:  # noqa: B006
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *HEADERS, *more]})
    await send({"type": "http.response.body", "body": body})
