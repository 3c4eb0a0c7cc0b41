"""Who may look at the page, and from where a deed may come. What it takes to act is the admin interface's to say."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from disagg_launch.router.exchange import refusal
from disagg_launch.router.keys import Keys
from disagg_launch.runtime.cluster import is_loopback

Headers = Mapping[bytes, bytes]


class Doorman:
    """Looking is free where only this machine reaches the port; elsewhere it takes the token for looking, or the one for acting."""

    def __init__(self, host: str, token_file: str, admin_token_file: str) -> None:
        self._open = is_loopback(host)
        if token_file and not self._open:
            _make(Path(token_file))
        self._keys = [Keys(path) for path in (token_file if not self._open else "", admin_token_file) if path]

    def admit(self, headers: Headers) -> None:
        """Come back if the sender may look. Refused with 401, and with 404 where no token could be had."""
        # a page of somebody else's can have its own name point to 127.0.0.1; then it is that name which stands here
        if self._open and _is_here(headers.get(b"host", b"").decode("latin-1")):
            return
        if not self._keys:
            raise refusal(404, "this page needs a token where others reach the port: name a file for it as front_door.ui_token_file")
        if not any(keys.owner(headers.get(b"authorization", b"")) for keys in self._keys):
            raise refusal(401, "looking at this page needs the token in state/ui-token of the run folder (or front_door.ui_token_file)")

    def same_origin(self, headers: Headers) -> None:
        """Come back if no other site's page sent this. Refused with 403."""
        origin, site = headers.get(b"origin", b"").lower(), headers.get(b"sec-fetch-site", b"same-origin")
        ours = origin.partition(b"://")[2] == headers.get(b"host", b"").lower() if origin else True
        if not ours or site not in (b"same-origin", b"none"):
            raise refusal(403, "this was sent by the page of another site")


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine and nothing but it: 127.example.org does not."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name.lower() == "localhost"


def _make(path: Path) -> None:
    """A token only this user can read, if there is none; of several processes one makes it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(24) + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()
