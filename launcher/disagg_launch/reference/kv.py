"""The KV hand-over: context ranks keep a finished prompt's cache and serve rectangles of it over TCP; generation ranks pull what they own.

On the wire: the server sends 16 random bytes; the client sends a question (JSON with its length before it) that is authenticated by an
HMAC-SHA256 with the request's key over those bytes and itself; the server answers with JSON, then for a pull with one block per layer:
float32 (2, KV heads, tokens, head_size), keys first, and its CRC-32.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import selectors
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from disagg_launch.reference.grid import Rect
from disagg_launch.reference.ticket import Holder, Ticket, rect_of

Array = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

NONCE_BYTES = 16
LONGEST_QUESTION = 4096
PATIENCE_S = 10.0  # for one read or write on a connection, and for a whole question
POLL_S = 0.2  # between two looks for caches whose time is over
CONNECTIONS = 64  # served at once; the kernel's queue holds the rest


class TransferFailed(Exception):
    """The KV cache could not be fetched; the message says from whom and why."""


@dataclass
class _Kept:
    """One request's cache on this rank, (layers, 2, KV heads, capacity, head_size), of which `tokens` are filled."""

    cache: Array
    tokens: int
    key: bytes
    deadline: float


class Exports:
    """A rank's kept caches and the port that serves them. A cache is freed by the fetcher's word, by `drop` or after its time."""

    def __init__(self, bind_host: str, advertised_host: str, rect: Rect) -> None:
        self._kept: dict[int, _Kept] = {}
        self._lock = threading.Lock()
        self.freed: Callable[[int], None] = lambda _: None  # told every request id that is no longer kept
        self._open = threading.BoundedSemaphore(CONNECTIONS)
        self._socket = _listen(bind_host)
        self.holder = Holder(advertised_host, self._socket.getsockname()[1], rect)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="kv-port", daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        """How many caches are kept."""
        return len(self._kept)

    def keep(self, request: int, key: str, cache: Array, tokens: int, timeout_s: float) -> None:
        """Serve the first `tokens` of `cache` to whoever has the key, for at most `timeout_s`."""
        with self._lock:
            self._kept[request] = _Kept(cache, tokens, bytes.fromhex(key), time.monotonic() + timeout_s)

    def drop(self, request: int) -> None:
        """Free a cache; nothing happens if it is gone."""
        with self._lock:
            gone = self._kept.pop(request, None)
        if gone is not None:
            self.freed(request)

    def close(self) -> None:
        """Stop serving and free everything."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._socket.close()
        for request in list(self._kept):
            self.drop(request)

    def block(self, cache: Array, layer: int, heads: slice, tokens: int) -> Array:
        """What is sent for one of this rank's layers."""
        return np.ascontiguousarray(cache[layer, :, heads, :tokens])

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while not self._closed:
                for _ in selector.select(POLL_S):
                    self._accept()
                self._expire()

    def _accept(self) -> None:
        if not self._open.acquire(timeout=POLL_S):
            return  # not longer: caches expire, and the port is closed, also while every connection is taken
        try:
            connection, _ = self._socket.accept()
        except OSError as wrong:
            self._open.release()
            if not self._closed:
                log.warning("KV port: %s", wrong)
                time.sleep(POLL_S)  # out of file descriptors: some will be closed
            return
        threading.Thread(target=self._answer, args=(connection,), name="kv-send", daemon=True).start()

    def _expire(self) -> None:
        now = time.monotonic()
        for request, kept in list(self._kept.items()):
            if kept.deadline < now:
                log.warning("KV cache of request %d was not fetched in time: freed", request)
                self.drop(request)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(PATIENCE_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                nonce = secrets.token_bytes(NONCE_BYTES)
                connection.sendall(nonce)
                question = json.loads(_receive_text(connection, time.monotonic() + PATIENCE_S))
                connection.settimeout(PATIENCE_S)
                kept = self._kept.get(question["request"])
                # an unknown request and a wrong key get the same answer, so that ids cannot be probed
                if kept is None or not hmac.compare_digest(question.pop("mac"), _mac(kept.key, nonce, question)):
                    _send_text(connection, json.dumps({"error": "unknown request or wrong key: it was freed, or never here"}))
                elif question["do"] == "free":
                    self.drop(question["request"])
                    _send_text(connection, "{}")
                else:
                    self._send(connection, kept, rect_of(question["rect"]))
        except (OSError, ValueError, KeyError, TypeError, struct.error) as wrong:
            log.info("KV connection ended: %s: %s", type(wrong).__name__, wrong)
        finally:
            self._open.release()

    def _send(self, connection: socket.socket, kept: _Kept, wanted: Rect) -> None:
        own = self.holder.rect
        if wanted.empty or wanted.overlap(own) != wanted:
            raise ValueError(f"{wanted} is not within {own}")
        heads = slice(wanted.head0 - own.head0, wanted.head1 - own.head0)
        _send_text(connection, json.dumps({"tokens": kept.tokens}))
        for layer in range(wanted.layer0 - own.layer0, wanted.layer1 - own.layer0):
            block = self.block(kept.cache, layer, heads, kept.tokens)
            connection.sendall(block.data)
            connection.sendall(struct.pack("!I", zlib.crc32(block.data)))


def pull(ticket: Ticket, rect: Rect, cache: Array, timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> None:
    """Fill `cache` (this rank's layers and KV heads, `rect`) with the ticket's tokens. TransferFailed if anything is missing or damaged."""
    deadline = time.monotonic() + timeout_s
    for holder, part in sources(ticket.holders, rect):
        layers = slice(part.layer0 - rect.layer0, part.layer1 - rect.layer0)
        heads = slice(part.head0 - rect.head0, part.head1 - rect.head0)
        _pull_from(holder, ticket, part, cache[layers, :, heads, : ticket.tokens], deadline, cancelled)


def _pull_from(holder: Holder, ticket: Ticket, part: Rect, target: Array, deadline: float, cancelled: Callable[[], bool]) -> None:
    try:
        with _connect(holder, deadline) as connection:
            answer = _ask(connection, ticket, {"do": "pull", "rect": asdict(part)}, deadline)
            if answer.get("tokens") != ticket.tokens:
                raise ValueError(answer.get("error") or f"{answer.get('tokens')} tokens offered, {ticket.tokens} needed")
            for layer in target:
                if cancelled():
                    return
                layer[...] = _receive_block(connection, layer.shape, deadline)
    except (OSError, ValueError) as wrong:
        raise TransferFailed(f"KV cache of request {ticket.request} from {holder.host}:{holder.port}: {wrong}") from wrong


def release(ticket: Ticket) -> None:
    """Tell every holder that the cache is no longer needed."""
    for holder in ticket.holders:
        _release_at(holder, ticket)


def _release_at(holder: Holder, ticket: Ticket) -> None:
    try:
        deadline = time.monotonic() + PATIENCE_S
        with _connect(holder, deadline) as connection:
            _ask(connection, ticket, {"do": "free"}, deadline)
    except (OSError, ValueError) as wrong:
        # no harm: the holder frees it after its time
        log.info("KV cache of request %d at %s:%d not freed by word: %s", ticket.request, holder.host, holder.port, wrong)


def sources(holders: Iterable[Holder], rect: Rect) -> list[tuple[Holder, Rect]]:
    """From whom to take which part of `rect`, every cell once. TransferFailed if the holders do not cover it."""
    parts: dict[Rect, Holder] = {}
    for holder in holders:
        part = rect.overlap(holder.rect)
        if not part.empty:
            # ranks that hold the same KV heads hold the same rectangle: the first one serves
            parts.setdefault(part, holder)
    if sum(part.cells for part in parts) != rect.cells:
        raise TransferFailed(f"the context worker's ranks do not cover {rect}: {sorted(parts, key=str)}")
    return [(holder, part) for part, holder in parts.items()]


def _listen(host: str) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, protocol)
    listener.bind(address)
    listener.listen(128)
    return listener


def _patience(deadline: float) -> float:
    """How long to wait for the other side now. TimeoutError when the time is over, also if something came all the while."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return min(PATIENCE_S, left_s)


def _connect(holder: Holder, deadline: float) -> socket.socket:
    connection = socket.create_connection((holder.host, holder.port), timeout=_patience(deadline))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _ask(connection: socket.socket, ticket: Ticket, question: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    """The server's answer to an authenticated question."""
    nonce = bytes(_receive_exactly(connection, NONCE_BYTES, deadline))
    asked = {**question, "request": ticket.request}
    _send_text(connection, json.dumps({**asked, "mac": _mac(bytes.fromhex(ticket.key), nonce, asked)}))
    answer = json.loads(_receive_text(connection, deadline))
    if not isinstance(answer, dict):
        raise ValueError("the KV port gave no proper answer")
    return answer


def _mac(key: bytes, nonce: bytes, question: Mapping[str, Any]) -> str:
    return hmac.new(key, nonce + json.dumps(question, sort_keys=True).encode(), "sha256").hexdigest()


def _send_text(connection: socket.socket, text: str) -> None:
    raw = text.encode()
    connection.sendall(struct.pack("!I", len(raw)) + raw)


def _receive_text(connection: socket.socket, deadline: float) -> bytes:
    (length,) = struct.unpack("!I", _receive_exactly(connection, 4, deadline))
    if length > LONGEST_QUESTION:
        raise ValueError(f"a message of {length} bytes is too long")
    return bytes(_receive_exactly(connection, length, deadline))


def _receive_block(connection: socket.socket, shape: tuple[int, ...], deadline: float) -> Array:
    block = np.empty(shape, np.float32)
    _fill(connection, block.data.cast("B"), deadline)
    (expected,) = struct.unpack("!I", _receive_exactly(connection, 4, deadline))
    if zlib.crc32(block.data) != expected:
        raise ValueError("checksum error: a block was damaged on its way")
    return block


def _receive_exactly(connection: socket.socket, count: int, deadline: float) -> bytearray:
    raw = bytearray(count)
    _fill(connection, memoryview(raw), deadline)
    return raw


def _fill(connection: socket.socket, target: memoryview, deadline: float) -> None:
    while target:
        connection.settimeout(_patience(deadline))
        got = connection.recv_into(target)
        if not got:
            raise ConnectionError("the connection was closed too early")
        target = target[got:]
