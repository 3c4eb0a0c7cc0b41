"""Child processes of the gateway: start them, pass their output on line by line, see them end. One SIGCHLD handler, no threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from typing import Awaitable, Callable, Dict, Mapping, Optional, Sequence, Set

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import processes, wire

READ_BYTES = 262144
LOOK_S = 0.001
SETTLE_S = 0.3
"""How long to wait for the last words of a process that has ended: a grandchild may hold its output open for ever."""


class Child:
    """A process that the gateway started, in a session of its own. `ended` resolves to its wait status."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = process.pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._process = process
        self.drained: Optional[asyncio.Future[None]] = None
        self.watcher: Optional[asyncio.Future[None]] = None

    def finish(self, status: int) -> None:
        """Called once by the reaper."""
        self._process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        if not self.ended.done():
            self.ended.set_result(status)

    @property
    def alive(self) -> bool:
        """Whether it has not been collected yet."""
        return not self.ended.done()

    async def settled(self) -> int:
        """Its wait status, once its last output has been passed on too."""
        status = await asyncio.shield(self.ended)
        if self.drained is not None:
            await asyncio.wait({self.drained}, timeout=SETTLE_S)
        return status


class Nursery:
    """All living children by pid; collects whoever ends, adopted orphans too."""

    def __init__(self) -> None:
        self.children: Dict[int, Child] = {}

    def open(self) -> None:
        """Begin to collect: orphans of our children become ours, and SIGCHLD wakes the loop."""
        processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)

    def close(self) -> None:
        """Stop collecting, after everything has ended."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 0)

    def reap(self) -> None:
        """Collect every process that has ended; signals merge, so one call may find several."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                child = self.children.pop(pid, None)
                if child is not None:
                    child.finish(status)

    async def start(
        self, name: str, argv: Sequence[str], folder: str, environ: Mapping[str, str], hear: Callable[[str], None],
        stdin: int = subprocess.DEVNULL,
    ) -> Child:  # fmt: skip
        """A new child; each line of its output goes to `hear` (no newline). BackendRefused if its program cannot be run."""
        out, into = os.pipe()
        try:
            process = subprocess.Popen(
                list(argv), cwd=folder, env=dict(environ), stdin=stdin, stdout=into, stderr=into,
                start_new_session=True, preexec_fn=_tied_to_gateway,
            )  # fmt: skip
        except OSError as problem:
            os.close(out)
            raise BackendRefused(f"{name}: {argv[0]!r} cannot be started ({problem.strerror}): install it or give its full path") from None
        finally:
            os.close(into)
        child = Child(name, process)
        self.children[child.pid] = child
        child.drained = asyncio.ensure_future(_pump(out, hear))
        return child


def _tied_to_gateway() -> None:
    processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGTERM)


async def _pump(descriptor: int, hear: Callable[[str], None]) -> None:
    """Pass on what is read from a pipe, a line at a time, until its last writer closes it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_BYTES)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0))
    rest = b""
    try:
        while True:
            block = await reader.read(READ_BYTES)
            said, rest = wire.lines(rest, block)
            for one in said:
                hear(one)
            if not block:
                return
    finally:
        transport.close()


def said(status: int) -> str:
    """A wait status in words: "exit code 3", "signal SIGKILL", or "exit code 137 (SIGKILL)" where a shell told of a signal."""
    number = os.WEXITSTATUS(status) - 128 if os.WIFEXITED(status) else os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    if os.WIFEXITED(status):
        return f"exit code {os.WEXITSTATUS(status)}" + (f" ({name})" if name else "")
    return f"signal {name or number}"


async def end(find: Callable[[], Set[int]], first: Callable[[], Awaitable[None]], grace_s: float, hasten: asyncio.Event) -> None:
    """`first` (ask politely), then wait until `find` finds nobody, at most `grace_s` or until `hasten`; KILL what is left."""
    await first()
    processes.wake(find())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    while (left := find()) and loop.time() < deadline and not hasten.is_set():
        # looking for hundreds is work that they need the processor for
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(hasten.wait(), processes.POLL_S + len(left) * LOOK_S)
    remaining = find()
    while remaining:
        processes.send(remaining, signal.SIGKILL)
        await asyncio.sleep(processes.POLL_S)
        remaining = find()
