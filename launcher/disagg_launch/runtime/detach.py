"""`gateway --detach`: the shell gets its prompt back when the router is open, and the gateway lives on without a terminal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Callable


def leave() -> Callable[[], None]:
    """Go on as a child in a session of its own; call what is returned when the router is open.

    The caller's process stays behind: it passes signals on, and leaves with 0 once that call has come, or with the child's exit status.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        sys.exit(_wait(child, reader))
    os.close(reader)
    os.setsid()

    def opened() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.close(nothing)
        os.write(writer, b"!")
        os.close(writer)

    return opened


def _wait(child: int, reader: int) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: os.kill(child, got))
    if os.read(reader, 1):
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
