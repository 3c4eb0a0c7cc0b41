"""Where the processes of an instance that does not get on are: a look from outside, which never ends or changes them.

py-spy where it is on the PATH or beside the Python that we run in, the signal upon which the engine writes its stacks to its log, and what
the kernel tells of everybody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Collection, Dict, Iterator

SPY = ("py-spy", "dump", "--nonblocking", "--pid")
SPY_S = 10.0
"""All looks together may take so long: a companion that is looking does not answer its gateway."""
MOST = 16
"""Of so many processes at most."""


def samples(pids: Collection[int], ask: str) -> Iterator[str]:
    """Lines about each process. `ask` is the name of the signal upon which it writes its stacks, "" for none; sent only if it listens."""
    spy = shutil.which(SPY[0]) or shutil.which(SPY[0], path=os.path.dirname(sys.executable))
    deadline = time.monotonic() + SPY_S
    for pid in sorted(pids)[:MOST]:
        with contextlib.suppress(OSError, KeyError):
            status = _status(pid)
            yield f"pid {pid} {status['Name']}: {status['State']}, {status['Threads']} threads, in {_where(pid) or 'user code'}"
            if ask and _catches(status, ask):
                os.kill(pid, signal.Signals[ask])
                yield f"    asked by {ask} to write its stacks to its log"
            if spy:
                yield from _spied(spy, pid, max(0.1, deadline - time.monotonic()))
    if not spy:
        yield "install py-spy to see Python stacks here"


def _status(pid: int) -> Dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _where(pid: int) -> str:
    """The function of the kernel that its main thread waits in; "" if in none, or if we may not know."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            found = file.read()
        return "" if found == "0" else found
    return ""


def _catches(status: Dict[str, str], name: str) -> bool:
    """Whether it has a handler for the signal: one that has none would be killed by it."""
    return bool(int(status["SigCgt"], 16) >> (signal.Signals[name] - 1) & 1)


def _spied(spy: str, pid: int, patience_s: float) -> Iterator[str]:
    argv = [spy, *SPY[1:], str(pid)]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=patience_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        yield f"    py-spy: {problem}"
        return
    yield from (f"    {line}" for line in done.stdout.splitlines())
