"""The logs of a run folder, merged by time. A line of an instance's log begins `[rank] 2026-01-02T03:04:05.678Z`."""

from __future__ import annotations

import heapq
import pathlib
import re
import time
from collections.abc import Iterator, Sequence

from disagg_launch.errors import BadInput

STAMP = re.compile(r"^(?:\[[^\]]*\] )?(\d{4}-\d\d-\d\dT[\d:.]+Z)")
POLL_S = 0.2


def lines(folder: pathlib.Path, names: Sequence[str] = (), follow: bool = False) -> Iterator[tuple[str, str]]:
    """(log's name, line) over all logs, or those named, in the order of their time stamps; with `follow` it goes on for ever.

    A line without a time stamp stays behind the one before it. BadInput if a named log is not there.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.log"))}
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise BadInput(f"{folder}: no log of {', '.join(missing) or 'anything'}; there are {', '.join(found) or 'none'}")
    ends: dict[str, int] = {}
    for _, name, line in heapq.merge(*(_stamped(name, found[name], ends) for name in names or found)):
        yield name, line
    while follow:
        time.sleep(POLL_S)
        for _, name, line in heapq.merge(*(_stamped(name, found[name], ends) for name in names or found)):
            yield name, line


def _stamped(name: str, path: pathlib.Path, ends: dict[str, int]) -> Iterator[tuple[tuple[str, int], str, str]]:
    """((time, line number), name, line) of the whole lines behind the place where the last call ended."""
    stamp = ""
    with path.open("rb") as file:
        file.seek(ends.get(name, 0))
        for number, raw in enumerate(file):
            if not raw.endswith(b"\n"):
                break
            ends[name] = ends.get(name, 0) + len(raw)
            line = raw[:-1].decode("utf-8", "replace")
            match = STAMP.match(line)
            stamp = match[1] if match else stamp
            yield (stamp, number), name, line
