"""Several router processes on one port: the kernel deals connections out, and what the gateway tells one of them, all are told.

They share nothing else. Each probes workers for itself and counts its own requests in flight, so that load is balanced within each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional

from disagg_launch.errors import BackendRefused, DisaggError, WorkerDied

LONGEST_NEWS = 4096
AGAIN_S = 0.02
RESTARTS_PER_MINUTE = 10
TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Serve = Callable[[list[socket.socket], "Siblings"], None]


class Siblings:
    """The other processes of this router, reached through datagram sockets in a folder that only this user can open. `own`: our number."""

    def __init__(self, folder: Optional[Path] = None, own: int = 0, count: int = 1) -> None:
        self.own = own
        self._others: dict[str, deque[bytes]] = {str(folder / str(n)): deque() for n in range(count) if n != own} if folder else {}
        self._loop: Any = None
        self._opened = folder / "open" if folder else None
        self._socket: Optional[socket.socket] = None
        if folder:
            path = folder / str(own)
            path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.bind(str(path))

    def tell(self, news: bytes) -> None:
        """Tell all the others. One that is just being started is told by its own probes."""
        for other, untold in self._others.items():
            untold.append(news)
            if len(untold) == 1:
                self._send(other)

    def _send(self, other: str) -> None:
        """Send what this one was not told yet, the rest later: the kernel holds no more than ten messages for one who is busy."""
        assert self._socket is not None
        untold = self._others[other]
        try:
            while untold:
                self._socket.sendto(untold[0], other)
                untold.popleft()
        except BlockingIOError:
            self._loop.call_later(AGAIN_S, self._send, other)
        except OSError:
            untold.clear()

    @property
    def opened(self) -> bool:
        """Whether one of us was told to let clients in: what a process has to know that is started again."""
        return self._opened is not None and self._opened.exists()

    def open(self) -> None:
        """From now on it is so."""
        if self._opened is not None:
            self._opened.touch()

    def listen(self, loop: Any, hear: Callable[[bytes], None]) -> None:
        """Call `hear` with what another has told."""
        self._loop = loop
        if self._socket is not None:
            own = self._socket
            loop.add_reader(own.fileno(), lambda: hear(own.recv(LONGEST_NEWS)))


def bound(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket at this address; several can have it if all are `shared`. BackendRefused if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError as wrong:
        raise BackendRefused(f"the router cannot listen on {host}:{port}: {wrong.strerror}; choose another port") from None
    return made


def run(addresses: list[tuple[str, int]], count: int, serve: Serve) -> None:
    """`serve` at these addresses in `count` processes, until SIGTERM or SIGINT. One that dies is started again; WorkerDied if in vain."""
    first = [bound(host, port) for host, port in addresses]  # unshared, so that the port of another router is not joined unnoticed
    if count == 1:
        serve(first, Siblings())
        return
    addresses = [(host, one.getsockname()[1]) for (host, _), one in zip(addresses, first)]
    for one in first:
        one.close()
    folder = Path(tempfile.mkdtemp(prefix="disagg-launch-router-"))
    try:
        _Parent(folder, count, lambda siblings: serve([bound(host, port, True) for host, port in addresses], siblings)).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Parent:
    """Starts the processes, hands signals on to them and waits for them."""

    def __init__(self, folder: Path, count: int, serve: Callable[[Siblings], None]) -> None:
        self._folder, self._count, self._serve = folder, count, serve
        self._children: dict[int, int] = {}  # pid -> number
        self._stopping = False
        self._started: list[float] = []

    def run(self) -> None:
        """Until all have ended."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        for number in range(self._count):
            self._start(number)
        while self._children:
            pid, status = os.wait()
            number = self._children.pop(pid)
            if self._stopping:
                continue
            self._started = [at for at in self._started if at > time.monotonic() - 60]
            if len(self._started) > self._count + RESTARTS_PER_MINUTE:
                self._stop(signal.SIGTERM, None)
                raise WorkerDied(f"router process {number} ended again and again, last with status {os.waitstatus_to_exitcode(status)}")
            self._start(number)
        sys.exit(128 + signal.SIGTERM)

    def _start(self, number: int) -> None:
        # a signal that comes now waits until it is known whom to hand it on to: else the new process would never hear of it
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)
        try:
            if self._stopping:
                return
            self._started.append(time.monotonic())
            pid = os.fork()
            if not pid:
                self._become(number)
            self._children[pid] = number
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)

    def _become(self, number: int) -> NoReturn:
        status = 1
        try:
            for one in (signal.SIGTERM, signal.SIGINT):
                signal.signal(one, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be heard
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
            self._serve(Siblings(self._folder, number, self._count))
            status = 0
        except KeyboardInterrupt:
            status = 0
        except DisaggError as wrong:
            print(f"router process {number}: {wrong}", file=sys.stderr, flush=True)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping = True
        self._hand_on(signal.SIGTERM)

    def _pass_on(self, number: int, frame: Any) -> None:
        self._hand_on(number)

    def _hand_on(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):  # it has just been waited for
                os.kill(pid, number)
