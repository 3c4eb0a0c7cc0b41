"""Between the processes of vLLM's and SGLang's stand-ins: where decode fetches what prefill left, and where an instance's nodes meet."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from typing import Any

PATIENCE_S = 60.0


class SideChannel:
    """Answers one JSON line `{"want": key}` with what was put under the key, waiting for it; one listener of a prefill instance."""

    def __init__(self) -> None:
        self.kept: dict[str, asyncio.Future[Any]] = {}

    async def open(self, host: str, port: int) -> int:
        """Listens on host:port, 0 for any port; the port. OSError if somebody else does."""
        server = await asyncio.start_server(self._answer, host, port)
        number: int = server.sockets[0].getsockname()[1]
        return number

    def place(self, key: str) -> asyncio.Future[Any]:
        """What is or will be under the key."""
        return self.kept.setdefault(key, asyncio.get_running_loop().create_future())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = json.loads(await reader.readline())["want"]
        value = await asyncio.wait_for(self.place(wanted), PATIENCE_S)
        self.kept.pop(wanted, None)
        writer.write(json.dumps(value).encode() + b"\n")
        await writer.drain()
        writer.close()


async def fetch(host: str, port: int, key: str) -> Any:
    """What the side channel at host:port has under the key."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(json.dumps({"want": key}).encode() + b"\n")
    value = json.loads(await asyncio.wait_for(reader.readline(), PATIENCE_S))
    writer.close()
    return value


def gather(host: str, port: int, count: int) -> list[socket.socket]:
    """The first node's part: connections of the other count-1 nodes, each of which sent its number; exits if a number is wrong or twice."""
    server = socket.create_server((host, port))
    links, numbers = [], set()
    while len(links) < count - 1:
        link, _ = server.accept()
        number = int(link.recv(16))
        if not 0 < number < count or number in numbers:
            sys.exit(f"RuntimeError: node rank {number} of {count} came, {sorted(numbers)} are here already")
        numbers.add(number)
        links.append(link)
    return links


def join(host: str, port: int, number: int) -> None:
    """Another node's part: comes to the first node and stays until that one leaves."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            link = socket.create_connection((host, port))
            break
        except OSError as wrong:
            if time.monotonic() > deadline:
                sys.exit(f"RuntimeError: nobody at {host}:{port}: {wrong}")
            time.sleep(0.1)
    link.sendall(str(number).encode())
    print(f"node {number} joined {host}:{port}", flush=True)
    link.recv(1)


def meet(host: str, port: int, number: int, count: int) -> None:
    """Returns on the first node when all are there; on the others when the first has left, and then ends the process."""
    if number > 0:
        join(host, port, number)
        sys.exit(0)
    links = gather(host, port, count)
    threading.Thread(target=lambda: [link.recv(1) for link in links], daemon=True).start()
