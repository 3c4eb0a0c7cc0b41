"""The access log: one JSON object a line and request, written together a few times a second."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import IO, Any, Optional

from disagg_launch.errors import BadInput
from disagg_launch.router.exchange import Exchange
from disagg_launch.router.splice import dumps

FLUSH_S = 0.25


class AccessLog:
    """Appends to a file, or to standard output for "-"; "" writes nothing."""

    def __init__(self, where: str) -> None:
        self._lines: list[bytes] = []
        self._file: Optional[IO[bytes]] = None
        self._loop = asyncio.get_running_loop()
        if where == "-":
            self._file = sys.stdout.buffer
        elif where:
            try:
                self._file = open(where, "ab")  # noqa: SIM115
            except OSError as wrong:
                raise BadInput(f"front_door.access_log: {where}: {wrong.strerror}") from None

    def add(self, exchange: Exchange, status: int) -> None:
        """A request has ended. Times in milliseconds; status 499: the client left."""
        if self._file is None:
            return
        line: dict[str, Any] = {"time": time.time(), "id": exchange.id, "path": exchange.path.decode("latin-1"), "status": status}
        line |= {
            "stream": exchange.stream,
            "client": exchange.client,
            "ctx": exchange.ctx,
            "gen": exchange.gen,
            "retries": exchange.retries,
        }
        line["queued_ms"] = round(exchange.queued_s * 1000, 3)
        if exchange.prefilled:
            line["prefill_ms"] = round((exchange.prefilled - exchange.began) * 1000, 3)
        if exchange.first:
            line["ttft_ms"] = round((exchange.first - exchange.began) * 1000, 3)
        line["total_ms"] = round((self._loop.time() - exchange.began) * 1000, 3)
        if not self._lines:
            self._loop.call_later(FLUSH_S, self.flush)
        self._lines.append(dumps(line))

    def flush(self) -> None:
        """Write what has come together."""
        if self._file is not None and self._lines:
            lines, self._lines = self._lines, []
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()
