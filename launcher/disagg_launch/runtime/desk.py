"""The gateway's reception: one TCP port for ranks' reports, workers' leases and the control commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Any, Callable, Dict, Optional

from disagg_launch.runtime import wire

HELLO_S = 10.0
BEATS_PER_FENCE = 5

Message = Dict[str, Any]


class Desk:
    """Answers one message per connection with `answer(message, peer)`; some keep their connection.

    Over a lease (kind "lease") the gateway sends {"beat": n} and hears it back; `lost(message)` is called when it was silent for
    `fence_s`, `heard(message, answer)` with what else its holder sends. When the answer says "output", what follows is the sender's
    output: `hear(message, line)`.
    """

    def __init__(
        self,
        token: bytes,
        fence_s: float,
        answer: Callable[[Message, str], Message],
        lost: Callable[[Message], None],
        hear: Callable[[Message, str], None],
        heard: Callable[[Message, Message], None],
    ) -> None:
        self._token = token
        self._answer = answer
        self._lost = lost
        self._hear = hear
        self._heard = heard
        self._fence_s = fence_s
        self._leases: Dict[asyncio.StreamWriter, Message] = {}
        self._connections: Dict[asyncio.Future[None], asyncio.StreamWriter] = {}
        self._server: Optional[asyncio.AbstractServer] = None

    async def open(self, host: str) -> int:
        """Listen on a free port of `host`; the port."""
        self._server = server = await asyncio.start_server(self._serve, host, 0, limit=wire.LINE_LIMIT, backlog=4096)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Take nobody in any more, and hang up on those who are connected: lease holders see it at once."""
        if self._server is not None:
            self._server.close()
        while self._connections:
            for writer in self._connections.values():
                writer.transport.abort()
            await asyncio.wait(set(self._connections))

    def tell_leases(self, message: Message, instance: str = "") -> None:
        """Send something to every lease holder, or to those of one instance."""
        for writer, lease in self._leases.items():
            if instance in ("", lease["instance"]):
                writer.write(wire.line(message))

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # no coroutine: asyncio would watch it, and print a traceback when a connection of the last moment is cancelled
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonce = secrets.token_hex(16)
        with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            writer.write(wire.line({"nonce": nonce}))
            text = await asyncio.wait_for(reader.readline(), HELLO_S)
            message = wire.opened(self._token, nonce, text)
            answer = self._answer(message, writer.get_extra_info("peername")[0])
            writer.write(wire.line(answer))
            if message.get("kind") == "lease" and "refused" not in answer:
                await self._hold(message, reader, writer)
            elif answer.get("output"):
                await self._listen(message, reader)
            await writer.drain()
        writer.close()

    async def _listen(self, message: Message, reader: asyncio.StreamReader) -> None:
        """The connection has become the standard output of the rank that reported on it."""
        rest, block = b"", b"-"
        while block:
            block = await reader.read(wire.LINE_LIMIT)
            said, rest = wire.lines(rest, block)
            for one in said:
                self._hear(message, one)

    async def _hold(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._leases[writer] = message
        beats = asyncio.ensure_future(self._beat(writer))
        try:
            while text := await asyncio.wait_for(reader.readline(), self._fence_s):
                if not text.startswith(b'{"beat"'):
                    self._heard(message, json.loads(text))
        except asyncio.TimeoutError:
            self._lost(message)
        finally:
            beats.cancel()
            self._leases.pop(writer, None)

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        number = 0
        while True:
            writer.write(wire.line({"beat": number}))
            number += 1
            await asyncio.sleep(self._fence_s / BEATS_PER_FENCE)
