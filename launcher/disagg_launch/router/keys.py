"""API keys and tokens: read from files or the environment, compared in constant time, changed without a restart."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path
from typing import Optional

from disagg_launch.errors import BadInput

RECHECK_S = 1.0


class Keys:
    """A set of secrets from a file (one a line, # comments) and an environment variable (separated by commas).

    The file is read again when it has changed; one that cannot be read then leaves the keys as they were.
    """

    def __init__(self, path: str = "", env: str = "") -> None:
        self.required = bool(path or env)
        self._path = Path(path) if path else None
        self._env = _digests(os.environ.get(env, "").split(",")) if env else {}
        self._file: dict[bytes, str] = {}
        self._version: tuple[int, int, int] = (0, 0, 0)
        self._next_look = 0.0
        if self._path:
            try:
                self._version, self._file = _read(self._path)
            except OSError as wrong:
                raise BadInput(f"{path}: {wrong.strerror}; the keys of the front door are needed there") from None
        if env and not self._env:
            raise BadInput(f"${env} holds no keys; set it, or take front_door.api_keys_env out")

    def owner(self, authorization: bytes) -> Optional[str]:
        """A name for the bearer of `Authorization: Bearer KEY` that is safe to write down; None if the key is not one of these."""
        self._look()
        kind, _, key = authorization.partition(b" ")
        if kind.lower() != b"bearer":
            return None
        # looked up by digest: which digest a guess has cannot be steered, so the time of the lookup tells nothing about a key
        digest = hashlib.sha256(key.strip()).digest()
        for known in (self._file, self._env):
            for one, name in known.items() if len(known) == 1 else ((digest, known.get(digest, "")),):
                if name and hmac.compare_digest(one, digest):
                    return name
        return None

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._next_look:
            return
        self._next_look = now + RECHECK_S
        try:
            if _stamp(self._path) != self._version:
                self._version, self._file = _read(self._path)
        except OSError:
            return


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _read(path: Path) -> tuple[tuple[int, int, int], dict[bytes, str]]:
    stamp = _stamp(path)
    return stamp, _digests([line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")])


def _digests(keys: list[str]) -> dict[bytes, str]:
    found = {hashlib.sha256(key.strip().encode()).digest() for key in keys if key.strip()}
    return {digest: f"key-{digest.hex()[:8]}" for digest in found}
