"""Ports that the topology file gives: on a machine one run at a time has them, from before it looks at them until it has ended.

Two runs that begin together both find a port free, because it is bound only when whoever is to listen there comes up. So the first thing
that a run takes is the port's name, an abstract socket, which the kernel takes back when the gateway ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Dict, Iterator, List, Tuple

from disagg_launch.runtime import bootstrap

NAME = "disagg-launch.port.{address}.{port}"
LISTENS = "0A"
"""The state of a listening socket in /proc/net/tcp."""
LONGEST = 300


class Claims:
    """The ports of this run on this machine. `take` each, `close` at the end."""

    def __init__(self) -> None:
        self._held: Dict[str, socket.socket] = {}

    def take(self, host: str, port: int, free: bool = False) -> str:
        """Why this run cannot have the port to itself, and who has it; "" when it can, and nobody else from now on.

        With `free`, nobody may listen there either.
        """
        name = NAME.format(address=_address(host, port), port=port)
        if name not in self._held:
            mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                mark.bind(f"\0{name}")
            except OSError as problem:
                mark.close()
                if problem.errno == errno.EADDRINUSE:  # anything else says that there are no such names here, as on a Mac
                    return f"{os.strerror(errno.EADDRINUSE)}{_by(_named(name))}"
            else:
                self._held[name] = mark
        taken = bootstrap.listener(host, port) if free else ""
        return f"{taken}{_by(_listening(port))}" if taken else ""

    def close(self) -> None:
        """Let go of them."""
        for mark in self._held.values():
            mark.close()
        self._held.clear()


def _address(host: str, port: int) -> str:
    """The address that will be bound there, so that two names of it are the same port."""
    with contextlib.suppress(OSError):
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    return host


def _by(sockets: Iterator[Tuple[str, int]]) -> str:
    """ ", by ..." about the first owner of these (inode, user id) that can be found out; "" if nothing can."""
    try:
        for inode, user in sockets:
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if f"socket:[{inode}]" in _open_files(pid):
                    return f", by process {pid}: {_command(pid)}"
            if user >= 0:
                return f", by a process of user {_user(user)}"
    except OSError:
        return ""
    return ""


def _named(name: str) -> Iterator[Tuple[str, int]]:
    for fields in _rows("unix"):
        if fields[-1] == f"@{name}":
            yield fields[6], -1


def _listening(port: int) -> Iterator[Tuple[str, int]]:
    for fields in (*_rows("tcp"), *_rows("tcp6")):
        if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9], int(fields[7])


def _rows(table: str) -> List[List[str]]:
    """The lines of a table in /proc/net in words, without its head; none where there is no such table."""
    with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="utf-8", errors="replace") as file:
        return [line.split() for line in file.readlines()[1:]]
    return []


def _open_files(pid: str) -> List[str]:
    """What a process has open, as far as we may see."""
    found = []
    with contextlib.suppress(OSError):
        for one in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(one.path))
    return found


def _command(pid: str) -> str:
    """Its command line, cut and without control characters."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        text = file.read().decode(errors="replace").replace("\0", " ").strip()
        shown = "".join(c if c.isprintable() else "?" for c in text)
        return shown if len(shown) <= LONGEST else shown[:LONGEST] + "..."
    return "?"


def _user(number: int) -> str:
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(number).pw_name
    return str(number)
