"""Which processes belong to a run, and how they end. Linux: /proc and prctl."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from disagg_launch.errors import RankRefused

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.05


class Process(NamedTuple):
    """One line of /proc: parent, session, whether it is dead but not yet collected, and whether a signal has stopped it."""

    parent: int
    session: int
    zombie: bool
    stopped: bool


def prctl(option: int, value: int) -> None:
    """Set one property of this process; OSError if the kernel says no."""
    import ctypes  # costs some milliseconds, and only half of the callers need it

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def die_with_parent() -> None:
    """From now on this process (also after exec) gets SIGTERM when its parent ends. RankRefused if the parent has gone already."""
    parent = os.getppid()
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise RankRefused("the process that started this rank is gone: start the step again", RankRefused.GATEWAY_LOST)


def table() -> Dict[int, Process]:
    """Every process of this node by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    # the command's name is in brackets and may hold anything, so count from the last bracket
                    state, parent, _, session = file.read().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            found[int(name)] = Process(int(parent), int(session), state in "ZX", state == "T")
    return found


def carries(pid: int, marks: Iterable[Tuple[str, str]]) -> bool:
    """Whether the process began with all these variables in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = set(file.read().split(b"\0"))
    except OSError:
        return False
    return all(f"{name}={value}".encode() in entries for name, value in marks)


def marked(marks: Iterable[Tuple[str, str]]) -> Set[int]:
    """Living processes that carry `marks`, and those that share a session with one: a child may have cleared its environment."""
    marks = tuple(marks)
    living = {pid: p for pid, p in table().items() if not p.zombie and pid != os.getpid()}
    carriers = {pid for pid in living if carries(pid, marks)}
    sessions = {living[pid].session for pid in carriers} - {os.getsid(0)}
    return carriers | {pid for pid, p in living.items() if p.session in sessions}


def families(roots: Iterable[int]) -> Dict[int, Set[int]]:
    """Each of these processes with everybody below it, by its pid; one look at /proc for all."""
    everyone = table()
    children = _children(everyone)
    return {root: _below(root, children) | {root} for root in roots if root in everyone}


def descendants(root: int) -> Set[int]:
    """Living processes below `root`, at any depth."""
    return _below(root, _children(table()))


def _children(everyone: Mapping[int, Process]) -> Mapping[int, List[int]]:
    """The living children of each process."""
    found: Dict[int, List[int]] = {}
    for pid, process in everyone.items():
        if not process.zombie:
            found.setdefault(process.parent, []).append(pid)
    return found


def _below(root: int, children: Mapping[int, List[int]]) -> Set[int]:
    found: Set[int] = set()
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found.update(below)
        queue.extend(below)
    return found


def lives_below(pid: int, root: int, everyone: Mapping[int, Process]) -> bool:
    """Whether the process is alive and `root` is an ancestor of it, by a `table` of now."""
    at = everyone.get(pid)
    if at is None or at.zombie:
        return False
    while at is not None and at.parent != root:
        at = everyone.get(at.parent)
    return at is not None


def send(pids: Iterable[int], number: int) -> None:
    """The signal to each of them; one that has just gone is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def ask_to_end(pids: Set[int]) -> None:
    """TERM to each of them, which those that are stopped hear too."""
    send(pids, signal.SIGTERM)
    wake(pids)


def wake(pids: Set[int]) -> None:
    """CONT to those of them that are stopped: they hear nothing else."""
    send((pid for pid, process in table().items() if process.stopped and pid in pids), signal.SIGCONT)


def end(find: Callable[[], Set[int]], grace_s: float) -> None:
    """TERM to everything that `find` finds, KILL to what is still there after `grace_s`; comes back when nothing is left."""
    ask_to_end(find())
    deadline = time.monotonic() + grace_s
    while find() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    remaining = find()
    while remaining:
        send(remaining, signal.SIGKILL)
        time.sleep(POLL_S)
        remaining = find()


def own_command() -> List[str]:
    """The argv that starts this program again: this zipapp, or this package when it runs from a folder."""
    archive = own_archive()
    return [sys.executable, archive] if archive else [sys.executable, "-m", "disagg_launch.runtime"]


def own_archive() -> Optional[str]:
    """The path of the zipapp this code came out of; None when it came from a folder."""
    loader = globals().get("__loader__")
    archive: Optional[str] = getattr(loader, "archive", None)
    return archive
