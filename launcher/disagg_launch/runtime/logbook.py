"""The logs of a run as lines with a time, read from any place in them, so that nobody has to read all of a long one.

The gateway stamps each line of logs/NAME.log when it arrives, whichever host it came from: `[rank] 2026-01-02T03:04:05.678Z text`. So all
logs of a run have one clock, the gateway's; the clocks of the nodes, and what engines write into their lines, are not relied on.
"""

from __future__ import annotations

import os
import re
from typing import BinaryIO, NamedTuple, Tuple

_STAMPED = re.compile(rb"(?:\[([^\]\s]*)\] )?(\d{4}-\d\d-\d\dT[\d:.]+Z) ?|# \S+ plan \S+ start \d+ at (\d{4}-\d\d-\d\dT[\d:.]+Z)$")
HEADER = "# "
_CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Line(NamedTuple):
    """One line: when it arrived ("" if it does not say), who said it (an instance rank, "-" for its launcher, "" for neither), and what."""

    stamp: str
    rank: str
    text: str


def line(raw: bytes) -> Line:
    """A line of a log, without its end; its text is `printable`. A header's text is the whole line."""
    found = _STAMPED.match(raw)
    if not found:
        return Line("", "", printable(raw.decode("utf-8", "replace")))
    rank, stamp, header = found.groups()
    if header:
        return Line(header.decode(), "", raw.decode("utf-8", "replace"))
    return Line(stamp.decode(), (rank or b"").decode("utf-8", "replace"), printable(raw[found.end() :].decode("utf-8", "replace")))


def printable(text: str) -> str:
    """A line without colours and control characters: engines colour even what no terminal sees, and print what strangers asked them."""
    return text if text.isprintable() else _CONTROLS.sub("", text)


def size_of(file: BinaryIO) -> int:
    """How long a log is now."""
    return file.seek(0, os.SEEK_END)


def offset_at(file: BinaryIO, stamp: str) -> int:
    """Where the first line stamped `stamp` or later begins; the size if there is none. A line without a stamp belongs to the one before."""
    low, high = 0, size_of(file)
    while low < high:
        middle = (low + high) // 2
        _, found = _stamped_from(file, middle)
        if found and found < stamp:
            low = middle + 1
        else:
            high = middle
    return _stamped_from(file, low)[0]


def offset_of_last(file: BinaryIO, count: int, block_bytes: int = 65536) -> int:
    """Where the last `count` lines begin."""
    at = size_of(file)
    missing = count + 1
    while at > 0:
        begin = max(0, at - block_bytes)
        file.seek(begin)
        block = file.read(at - begin)
        here = block.count(b"\n")
        if here >= missing:
            for _ in range(missing):
                block = block[: block.rindex(b"\n")]
            return begin + len(block) + 1
        missing -= here
        at = begin
    return 0


def stamp_before(file: BinaryIO, at: int, block_bytes: int = 65536) -> str:
    """The last stamp before a place; "" if there is none near it."""
    begin = max(0, at - block_bytes)
    file.seek(begin)
    lines = file.read(at - begin).split(b"\n")
    return next((found for found in (line(raw).stamp for raw in reversed(lines)) if found), "")


def _stamped_from(file: BinaryIO, at: int) -> Tuple[int, str]:
    """Where the first whole stamped line at or behind `at` begins, and its stamp; (the size, "") if there is none."""
    file.seek(max(0, at - 1))
    if at:
        file.readline()
    while True:
        begin = file.tell()
        raw = file.readline()
        if not raw.endswith(b"\n"):
            return begin + len(raw), ""
        stamp = line(raw[:-1]).stamp
        if stamp:
            return begin, stamp
