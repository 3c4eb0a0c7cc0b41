"""HTTP/1.1 as far as a featherweight worker needs it. Standard library only."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import IO, Any, Optional


def read_request(reader: IO[bytes]) -> Optional[tuple[str, str, dict[str, str], bytes]]:
    """(method, path, headers, body); None at the end of the connection."""
    words = reader.readline(65536).decode("latin-1").split()
    if len(words) < 2:
        return None
    headers, body = read_rest(reader)
    return words[0], words[1], headers, body


def read_rest(reader: IO[bytes]) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a message behind its first line."""
    headers = {}
    while line := reader.readline(65536).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers, reader.read(int(headers.get("content-length", 0)))


def whole(connection: socket.socket, status: int, body: bytes) -> None:
    """Send a whole answer."""
    head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    connection.sendall(head + body)


def chunk(connection: socket.socket, data: bytes) -> None:
    """Send a piece of a stream."""
    connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))


def dumps(value: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(value, separators=(",", ":")).encode()
