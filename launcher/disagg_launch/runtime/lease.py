"""A worker's tie to its gateway: `hold` in workers that are ours, a companion process beside workers that are not.

A worker that is cut off must stop before the gateway starts its replacement elsewhere, and nobody may outlive a gateway that was killed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set

from disagg_launch.runtime import processes, wire
from disagg_launch.runtime.names import GATEWAY, LIFE, RUN, START

FENCE_S = 30.0
GONE_S = 2.0
"""A gateway whose machine answers but where nobody listens any more is given so long to come back."""
RETRY_S = 0.2
PID_POLL_S = 0.5


class Lease:
    """One held lease. `keep` comes back with the reason when it is lost; "" when it was closed."""

    def __init__(
        self,
        address: str,
        run: str,
        message: Dict[str, Any],
        fence_s: float,
        on_stop: Callable[[], None],
        answer: Optional[Callable[[Dict[str, Any]], Optional[Dict[str, Any]]]] = None,
    ) -> None:
        self._address, self._message, self._fence_s, self._on_stop, self._answer = address, message, fence_s, on_stop, answer
        self._token = wire.read_token(run)
        self._heard_s = time.monotonic()
        self._refused_s: Optional[float] = None
        self._closed = False
        self._connection: Optional[socket.socket] = None

    def close(self) -> None:
        """Give the lease up without its being lost: the worker is about to end by itself."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def keep(self) -> str:
        """Hold the lease as long as the gateway does; then why it is lost."""
        while not self._closed:
            try:
                self._converse()
                problem = "it hung up"
            except PermissionError as refused:
                return str(refused)
            except ConnectionRefusedError as nobody:
                problem = str(nobody)
                self._refused_s = self._refused_s or time.monotonic()
            except (OSError, ValueError) as broken:
                problem = str(broken)
            now_s = time.monotonic()
            if self._refused_s is not None and now_s - self._refused_s > GONE_S:
                return f"the gateway at {self._address} is gone ({problem})"
            if now_s - self._heard_s > self._fence_s:
                return f"nothing heard of the gateway at {self._address} for {self._fence_s:g} s ({problem})"
            time.sleep(RETRY_S)
        return ""

    def keep_then(self, on_lost: Callable[[str], None]) -> None:
        """`keep`, then `on_lost(reason)` unless it was closed."""
        reason = self.keep()
        if reason:
            on_lost(reason)

    def _converse(self) -> None:
        """Connect and echo beats until the line breaks. PermissionError when the gateway has given this rank to another process."""
        left_s = max(RETRY_S, self._heard_s + self._fence_s - time.monotonic())
        connection, reader, answer = wire.connect(self._address, self._token, self._message, left_s)
        with connection, reader:
            if "refused" in answer:
                raise PermissionError(answer["refused"])
            self._connection, self._refused_s = connection, None
            self._fence_s = float(answer.get("fence_s", self._fence_s))
            connection.settimeout(self._fence_s)
            while True:
                self._heard_s = time.monotonic()
                text = reader.readline(wire.LINE_LIMIT)
                if not text:
                    return
                asked = json.loads(text)
                if "stop" in asked:
                    self._on_stop()
                connection.sendall(text)
                if self._answer is not None and "beat" not in asked:
                    told = self._answer(asked)
                    if told is not None:
                        connection.sendall(wire.line(told))


def hold(
    on_lost: Callable[[str], None],
    fence_s: float = FENCE_S,
    environ: Mapping[str, str] = os.environ,
    on_stop: Callable[[], None] = lambda: None,
) -> Optional[Lease]:
    """Keep this worker's lease in a daemon thread; `on_lost(reason)` is called there, once, when the gateway is gone or out of reach.

    `on_stop()` is called when the gateway asks everybody to end. None, and no thread, when the worker was started by hand without a
    gateway. The fence set in launch.json, which the gateway tells, goes before `fence_s`.
    """
    address = environ.get(GATEWAY)
    if not address:
        return None
    lease = Lease(address, environ[RUN], _message(environ, os.getpid()), fence_s, on_stop)
    threading.Thread(target=lease.keep_then, args=(on_lost,), name="lease", daemon=True).start()
    return lease


def fork_companion(environ: Mapping[str, str], fence_s: float, grace_s: float) -> None:
    """Leave a process beside this one, which is about to exec a worker that knows nothing of leases.

    It ends the worker and everything of its instance on this node when the lease is lost, and whatever is left when the worker ends.
    Forked, not started: it costs a millisecond and, sharing memory with the bootstrap, next to none of it.
    """
    worker = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    # twice, so that the worker never finds a child it does not know
    if os.fork():
        os._exit(0)
    try:
        os.setsid()
        _let_go_of_files()
        _guard(worker, environ, fence_s, grace_s)
    finally:
        os._exit(0)


def _guard(worker: int, environ: Mapping[str, str], fence_s: float, grace_s: float) -> None:
    # not its successors, which may be here before the last of these has ended
    marks = [(name, environ[name]) for name in (LIFE, START, "DISAGG_INSTANCE")]

    def family() -> Set[int]:
        return processes.marked(marks)

    def ask_to_end() -> None:
        processes.ask_to_end(family())

    lease = Lease(environ[GATEWAY], environ[RUN], _message(environ, worker), fence_s, ask_to_end, _Looks(family))
    threading.Thread(target=lease.keep_then, args=(lambda _: processes.end(family, grace_s),), daemon=True).start()
    _wait_for(worker)
    processes.end(family, grace_s)


class _Looks:
    """Answers what the gateway asks a companion: what the instance's processes on this node have used, and where they are."""

    def __init__(self, family: Callable[[], Set[int]]) -> None:
        self._family = family
        self._pulse: Optional[Any] = None

    def __call__(self, asked: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """The answer; None where nothing is to be said."""
        if "pulse" in asked:
            from disagg_launch.runtime import pulse  # the worker's own process, which this was forked from, does not need it

            self._pulse = self._pulse or pulse.Pulse(pulse.Gpus())
            return {"figures": self._pulse.measure(self._family())._asdict()}
        if "stacks" in asked:
            from disagg_launch.runtime import stacks

            return {"samples": _fitting(stacks.samples(self._family(), asked["stacks"]))}
        return None


def _fitting(lines: Iterable[str]) -> List[str]:
    """The first lines, as many as go into one message."""
    found: List[str] = []
    room = wire.LINE_LIMIT // 2
    for line in lines:
        room -= len(line) + 8
        if room < 0:
            return [*found, "..."]
        found.append(line)
    return found


def _wait_for(pid: int) -> None:
    """Come back when the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
        select.select([descriptor], [], [])
    except (AttributeError, OSError):  # before Linux 5.3, or it has ended already
        while (process := processes.table().get(pid)) is not None and not process.zombie:
            time.sleep(PID_POLL_S)


def _let_go_of_files() -> None:
    """Hold nothing open: a launcher waits until the last holder of its pipes is gone."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)


def _message(environ: Mapping[str, str], pid: int) -> Dict[str, Any]:
    rank, instance = int(environ["DISAGG_RANK"]), environ["DISAGG_INSTANCE"]
    return {"kind": "lease", "rank": rank, "instance": instance, "pid": pid, "host": socket.gethostname()}
