"""What the gateway tells the router: POST /admin/drain, gone, undrain, remove {"worker": "host:port"}; GET /admin/workers and load.

POST /admin/open {}: clients are let in, where the router was started `--closed`. POST /admin/probe is in `trial`.

`gone`: the process has ended, so whoever waits for it is served elsewhere at once. `drain`: no new requests, running ones go on.
`undrain`: it is back, or to be used again; it is given requests as soon as its health page says 200.
`undrain` with a "role" puts a worker in that the configuration does not name; `remove` takes one out for good, whatever it is at.
All of it needs the token in `admin_token_file`.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable

import orjson

from disagg_launch.plan import PREFIX
from disagg_launch.router.config import FrontDoor, is_url
from disagg_launch.router.exchange import Refused, refusal
from disagg_launch.router.fleet import Fleet, row
from disagg_launch.router.keys import Keys
from disagg_launch.router.processes import Siblings
from disagg_launch.router.reply import Request
from disagg_launch.router.splice import dumps
from disagg_launch.router.workers import State

REMOVE, OPEN = "remove", "open"
STATES = {"drain": State.DRAINING, "gone": State.GONE, "undrain": State.JOINING}
_LOOPBACK = ("127.", "::1", "::ffff:127.")


class Admin:
    """The admin interface of one router process. `load` gives the figures of /admin/load."""

    def __init__(self, fleet: Fleet, door: FrontDoor, siblings: Siblings, load: Callable[[], Any]) -> None:
        self._load = load
        self._fleet = fleet
        self._siblings = siblings
        self._keys = Keys(door.admin_token_file) if door.admin_token_file else None
        self._loopback_only = door.admin_loopback_only

    def answer(self, request: Request, what: str) -> bytes:
        """The answer to one admin request. Refused: see `admit`; 404 for what there is not, 400 for a body that makes no sense."""
        self.admit(request.headers.get(b"authorization", b""), request.peer)
        if request.method == b"GET" and what == "workers":
            return dumps([row(worker) for worker in self._fleet.table.by_url.values()])
        if request.method == b"GET" and what == "load":
            return dumps(self._load())
        if request.method != b"POST" or what not in (*STATES, REMOVE, OPEN):
            raise refusal(404, f"there is no /admin/{what}: POST drain, gone, undrain, remove or open, GET workers or load")
        return self.carry_out(what, message_of(bytes(request.body)))

    def admit(self, authorization: bytes, peer: str) -> None:
        """Come back if the bearer may act. Refused: 404 without an admin interface, 403 from elsewhere, 401 without the token."""
        if self._keys is None:
            raise refusal(404, "there is no admin interface: front_door.admin_token_file is not set")
        if self._loopback_only and peer and not peer.startswith(_LOOPBACK):
            raise refusal(403, "the admin interface answers this machine only")
        if self._keys.owner(authorization) is None:
            raise refusal(401, "the admin token is needed as a bearer token")

    def carry_out(self, what: str, message: dict[str, Any]) -> bytes:
        """Change a worker here and in the other processes of this router; its rows. Refused if there is no such worker."""
        told = self._change(what, message)
        self._siblings.tell(dumps([what, message]))
        return told

    def hear(self, news: bytes) -> None:
        """Another process of this router was told this."""
        what, message = orjson.loads(news)
        with contextlib.suppress(Refused):
            self._change(what, message)

    def _change(self, what: str, message: dict[str, Any]) -> bytes:
        if what == OPEN:
            self._siblings.open()
            self._fleet.open()
            return dumps({"ready": self._fleet.ready})
        url, role = message.get("worker"), message.get("role")
        if not is_url(url) or role not in (None, *PREFIX):
            raise refusal(400, 'needed: {"worker": "host:port"}, and "role" context or generation to put in a new one')
        if role and what == "undrain":
            self._fleet.add(role, str(url))
        found = [worker for worker in self._fleet.table.by_url.values() if worker.url == url and role in (None, worker.role)]
        if not found:
            raise refusal(404, f"there is no worker {url}")
        for worker in found:
            if what == REMOVE:
                self._fleet.remove(worker)
            else:
                self._fleet.change(worker, STATES[what])
        return dumps([row(worker) for worker in found])


def message_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Refused with 400 when it is none."""
    try:
        message = orjson.loads(body)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise refusal(400, "the body must be a JSON object")
    return message
