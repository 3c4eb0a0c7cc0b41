"""The access log: one JSON object a line and request, written together a few times a second."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import IO, Optional

from disagg_launch.errors import BadInput
from disagg_launch.router.exchange import Exchange
from disagg_launch.router.splice import dumps

FLUSH_S = 0.25


class AccessLog:
    """Appends to a file, or to standard output for "-"; "" writes nothing."""

    def __init__(self, where: str) -> None:
        self._lines: list[bytes] = []
        self._file = sys.stdout.buffer if where == "-" else opened(where)
        self._loop = asyncio.get_running_loop()

    def add(self, exchange: Exchange, status: int) -> None:
        """A request has ended. `time` in seconds, the others in microseconds from the request on; status 499: the client left."""
        if self._file is None:
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

    def flush(self) -> None:
        """Write what has come together."""
        if self._file is not None and self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Write what has come together, and nothing after that."""
        self.flush()
        if self._file is not None and self._file is not sys.stdout.buffer:
            self._file.close()
        self._file = None


def opened(where: str) -> Optional[IO[bytes]]:
    """The file of that name, to be appended to; None for "-" and "". BadInput if it cannot be opened."""
    if where in ("-", ""):
        return None
    try:
        return open(where, "ab")
    except OSError as wrong:
        raise BadInput(f"front_door.access_log: {where}: {wrong.strerror}; name a file that can be written") from None
