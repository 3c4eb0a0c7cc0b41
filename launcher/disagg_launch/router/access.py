"""The access log: one JSON object a line and request, written together a few times a second, in a thread that may be made to wait."""

from __future__ import annotations

import asyncio
import time

from disagg_launch.errors import BadInput
from disagg_launch.router.exchange import Exchange
from disagg_launch.router.splice import dumps
from disagg_launch.runtime.scribe import OUT, Scribe

FLUSH_S = 0.25
FLUSH_LINES = 256  # a quarter of a second's lines in one text take 15 MB more at 14,000 requests a second
LAST_WORDS_S = 1.0


class AccessLog:
    """Appends to a file, or to standard output for "-"; "" writes nothing."""

    def __init__(self, where: str) -> None:
        check(where)
        self._path = OUT if where == "-" else where
        self._scribe = Scribe()
        self._lines: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def add(self, exchange: Exchange, status: int) -> None:
        """A request has ended. `time` in seconds, the others in microseconds from the request on; status 499: the client left."""
        if not self._path:
            return
        began = exchange.began
        line = {
            "time": time.time(),
            "id": exchange.id,
            "path": "/v1/chat/completions" if exchange.chat else "/v1/completions",
            "status": status,
            "stream": exchange.stream,
            "client": exchange.client,
            "ctx": exchange.ctx,
            "gen": exchange.gen,
            "retries": exchange.retries,
            "queued_us": int(exchange.queued_s * 1e6),
            "prefill_us": int((exchange.prefilled - began) * 1e6) if exchange.prefilled else None,
            "ttft_us": int((exchange.first - began) * 1e6) if exchange.first else None,
            "total_us": int((self._loop.time() - began) * 1e6),
        }
        if not self._lines:
            self._loop.call_later(FLUSH_S, self.flush)
        self._lines.append(dumps(line))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Have written what has come together."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._scribe.append(self._path, b"\n".join([*lines, b""]).decode())

    async def close(self) -> None:
        """Write what has come together, and nothing after that; lost if it cannot be written soon enough."""
        self.flush()
        self._path = ""
        await asyncio.to_thread(self._scribe.close, LAST_WORDS_S)


def check(where: str) -> None:
    """BadInput if there can be no file of that name."""
    if where in ("-", ""):
        return
    try:
        open(where, "ab").close()
    except OSError as wrong:
        raise BadInput(f"front_door.access_log: {where}: {wrong.strerror}; name a file that can be written") from None
