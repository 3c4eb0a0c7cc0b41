"""One line of JSON each way, with proof that the sender has read the run folder's token. Used by ranks, leases and the control commands.

The gateway speaks first: {"nonce": ...}. Whoever connects answers one message with "mac", an HMAC over nonce and message, so the token
never travels and a recorded line is worth nothing on another connection.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

LINE_LIMIT = 65536
HUNG_UP = {"refused": "the gateway hung up: the token may be another run's"}


def token_path(run: str) -> str:
    """Where the run folder keeps its secret (0600 in a 0700 folder)."""
    return os.path.join(run, "state", "token")


def read_token(run: str) -> bytes:
    """The secret of the run; FileNotFoundError when no gateway has made one."""
    with open(token_path(run), "rb") as file:
        return file.read().strip()


def signed(token: bytes, nonce: str, message: dict[str, Any]) -> bytes:
    """The line to send: the message and its proof."""
    return line({**message, "mac": _mac(token, nonce, message)})


def line(message: dict[str, Any]) -> bytes:
    """One message as it travels."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def opened(token: bytes, nonce: str, text: bytes) -> dict[str, Any]:
    """The message in a signed line. ValueError if it is no JSON object or its proof is wrong."""
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("a JSON object is needed")
    proof = message.pop("mac", "")
    if not (isinstance(proof, str) and proof.isascii() and hmac.compare_digest(proof, _mac(token, nonce, message))):
        raise ValueError("the proof is wrong: the sender has another token")
    return message


def address_of(text: str) -> tuple[str, int]:
    """("host", port) of "host:port"."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def connect(address: str, token: bytes, message: dict[str, Any], timeout_s: float) -> tuple[socket.socket, BinaryIO, dict[str, Any]]:
    """An open connection on which `message` was sent, its reader, and the gateway's answer. OSError or ValueError when that fails."""
    connection = socket.create_connection(address_of(address), timeout=timeout_s)
    try:
        reader = connection.makefile("rb")
        hello = json.loads(reader.readline(LINE_LIMIT))
        connection.sendall(signed(token, hello["nonce"], message))
        text = reader.readline(LINE_LIMIT)
        answer = json.loads(text) if text else HUNG_UP
    except BaseException:
        connection.close()
        raise
    return connection, reader, answer


def lines(rest: bytes, block: bytes) -> tuple[list[str], bytes]:
    """The whole lines in rest + block, and what begins the next; an empty block ends the last line, LINE_LIMIT cuts an endless one.

    What a progress bar writes over its line ("\\r") is a line of its own, as soon as the next comes, and begins with that mark.
    """
    *whole, rest = (rest + block).split(b"\n")
    if rest and (not block or len(rest) > LINE_LIMIT):
        whole.append(rest)
        rest = b""
    drawn, mark, last = rest.rpartition(b"\r")
    if drawn and last:
        whole.append(drawn)
        rest = mark + last
    return [piece for one in whole for piece in _pieces(one.decode(errors="replace"))], rest


def _pieces(text: str) -> list[str]:
    """What a line that was written over said, one after the other; any other line is itself."""
    first, *later = text.rstrip("\r").split("\r")
    return [*([first] if first or not later else []), *("\r" + one for one in later if one.strip())]


def ask(address: str, token: bytes, message: dict[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """The gateway's answer to one message."""
    connection, reader, answer = connect(address, token, message, timeout_s)
    reader.close()
    connection.close()
    return answer


def _mac(token: bytes, nonce: str, message: dict[str, Any]) -> str:
    body = json.dumps(message, sort_keys=True, separators=(",", ":"))
    return hmac.new(token, f"{nonce}\n{body}".encode(), hashlib.sha256).hexdigest()
