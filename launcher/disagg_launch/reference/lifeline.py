"""A TCP connection from every rank to its instance's leader: reports out of turn, and each sees at once that the other is gone.

A collective operation would never tell: it waits for a dead rank for ever. One JSON value per line; the first line of a rank is the secret
that the leader gave out, the last one is null for an orderly end, or a string that says what failed.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

from disagg_launch.reference.comm import Json

log = logging.getLogger(__name__)

PATIENCE_S = 30.0
LONGEST_GREETING = 200
LEADER_GONE = 1  # exit status of a rank whose leader is gone


@dataclass(frozen=True)
class Address:
    """Where the leader listens, and what a rank must say there."""

    host: str
    port: int
    secret: str


class LeaderEnd:
    """The leader's end of all lifelines."""

    def __init__(self, host: str, size: int) -> None:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        self._socket = socket.create_server((host, 0), family=family)
        self._waiting = size - 1
        self._closed = False
        self._hear: Callable[[Json], None] = lambda _: None
        self.address = Address(host, self._socket.getsockname()[1], secrets.token_hex(16))

    def report(self, event: Json) -> None:
        """The leader's own reports."""
        self._hear(event)

    def listen(self, hear: Callable[[Json], None], lost: Callable[[str], None]) -> None:
        """Wait for every rank to be there, then watch each in a thread. TimeoutError if they do not come."""
        self._hear = hear
        self._socket.settimeout(PATIENCE_S)
        while self._waiting:
            try:
                line, _ = self._socket.accept()
            except socket.timeout:
                where = f"{self.address.host}:{self.address.port}"
                what = f"{self._waiting} ranks of this instance have not connected to {where} within {PATIENCE_S:g} s"
                raise TimeoutError(f"{what}: every node of the instance has to reach it; DISAGG_ADVERTISE names another") from None
            rank = self._greet(line)
            if rank is None:
                line.close()
                continue
            self._waiting -= 1
            threading.Thread(target=self._watch, args=(line, rank, lost), name=f"lifeline-{rank}", daemon=True).start()
        self._socket.close()

    def _greet(self, line: socket.socket) -> Optional[int]:
        """The number of the rank that connected; None for a stranger."""
        try:
            line.settimeout(PATIENCE_S)
            raw = bytearray()
            while not raw.endswith(b"\n"):
                if len(raw) > LONGEST_GREETING or not (byte := line.recv(1)):
                    return None
                raw += byte
            secret, rank = json.loads(raw)
            line.settimeout(None)
            return int(rank) if hmac.compare_digest(str(secret), self.address.secret) else None
        except (OSError, ValueError, TypeError) as wrong:
            log.warning("lifeline: a stranger connected (%s)", wrong)
            return None

    def close(self) -> None:
        """From now on a rank that is gone is no loss."""
        self._closed = True

    def _watch(self, line: socket.socket, rank: int, lost: Callable[[str], None]) -> None:
        try:
            for text in line.makefile("r", encoding="utf-8"):
                event = json.loads(text)
                if event is None:
                    return
                if isinstance(event, str):
                    lost(f"rank {rank} of this instance failed: {event}")
                    return
                self._hear(event)
        except (OSError, ValueError) as wrong:
            log.warning("lifeline of rank %d: %s", rank, wrong)
        finally:
            line.close()
        if not self._closed:
            lost(f"rank {rank} of this instance is gone")


class RankEnd:
    """Another rank's end. Its process ends when the leader's is gone, also when it is stuck in a collective operation."""

    def __init__(self, address: Address, rank: int) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._line = socket.create_connection((address.host, address.port), timeout=PATIENCE_S)
        self._line.settimeout(None)
        self._say([address.secret, rank])
        threading.Thread(target=self._watch, args=(rank,), name="lifeline", daemon=True).start()

    def report(self, event: Json) -> None:
        """Send it to the leader. If the leader is gone, `_watch` ends this process anyway."""
        self._say(event)

    def close(self) -> None:
        """Say goodbye."""
        self._closed = True
        self._say(None)

    def fail(self, reason: str) -> None:
        """Say why this rank cannot go on. The leader ends it."""
        self._closed = True
        self._say(reason)

    def _say(self, value: object) -> None:
        with self._lock:
            self._line.sendall(json.dumps(value).encode() + b"\n")

    def _watch(self, rank: int) -> None:
        try:
            self._line.recv(1)
        except OSError as wrong:
            log.warning("lifeline to the leader: %s", wrong)
        if not self._closed:
            log.error("rank %d: the leader of this instance is gone", rank)
            os._exit(LEADER_GONE)
