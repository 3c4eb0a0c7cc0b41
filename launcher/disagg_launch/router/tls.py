"""TLS for clients: certificate and key, read again when they are renewed, and a server that leaves those inside in plain HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
from typing import Any, Optional

import uvicorn

from disagg_launch import keypair
from disagg_launch.errors import BadInput
from disagg_launch.router.config import FrontDoor

RECHECK_S = 1.0
HANDSHAKE_S, FAREWELL_S = 15.0, 0.5

log = logging.getLogger(__name__)


class Certificate:
    """What clients' connections are encrypted with, `context`. BadInput if the two files cannot be used.

    As long as `watch` runs they are read again when they have changed; such that cannot be used then leave everything as it was.
    """

    def __init__(self, door: FrontDoor) -> None:
        self._cert, self._key = door.tls_cert_file, door.tls_key_file
        self._version = self._stamp()
        self.context = self._loaded()

    async def watch(self) -> None:
        """Have connections see what is in the files when they come."""
        while True:
            await asyncio.sleep(RECHECK_S)
            with contextlib.suppress(BadInput):  # one of them is away for a moment
                # in a thread: a file system that stalls must not stop those who serve
                version = await asyncio.to_thread(self._stamp)
                if version != self._version:
                    self._version = version
                    self._renew()

    def _renew(self) -> None:
        try:
            self._loaded()  # tried apart from those that work: half of a pair would be kept
            keypair.load(self.context, self._cert, self._key)
        except (BadInput, keypair.WrongPair, OSError) as wrong:
            log.error("the certificate was not read again: %s", wrong)
        else:
            log.info("the certificate was read again")

    def _stamp(self) -> list[tuple[int, int, int]]:
        found = []
        for key, path in (("tls_cert_file", self._cert), ("tls_key_file", self._key)):
            try:
                with open(path, "rb") as file:
                    stat = os.fstat(file.fileno())
            except OSError as wrong:
                raise BadInput(f"front_door.{key}: {path}: {wrong.strerror}") from None
            found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return found

    def _loaded(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 and 1.3
        made.set_alpn_protocols(["http/1.1"])
        try:
            keypair.load(made, self._cert, self._key)
        except keypair.WrongPair as wrong:
            raise BadInput(f"front_door.{wrong.option}: {wrong}") from None
        return made


class Server(uvicorn.Server):
    """Clients come by the first socket, by TLS if there is any; whoever comes by another one speaks plain HTTP."""

    async def startup(self, sockets: Optional[list[socket.socket]] = None) -> None:
        """Listen on all of them."""
        assert sockets
        await super().startup([])
        self.started = False
        # a client that keeps an idle connection reads our farewell when it asks again: to wait for its own would hold up every end
        loop: Any = asyncio.get_running_loop()  # whose type knows the limits from Python 3.11 on
        backlog = self.config.backlog
        limits = {"ssl_handshake_timeout": HANDSHAKE_S} if self.config.ssl else {}
        if self.config.ssl and (sys.version_info >= (3, 11) or "uvloop" in type(loop).__module__):
            limits["ssl_shutdown_timeout"] = FAREWELL_S
        self.servers = [
            await loop.create_server(self._connection, sock=sockets[0], backlog=backlog, ssl=self.config.ssl, **limits),
            *[await loop.create_server(self._connection, sock=one, backlog=backlog) for one in sockets[1:]],
        ]
        self.started = True

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made
