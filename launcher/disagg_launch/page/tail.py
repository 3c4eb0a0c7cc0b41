"""The end of a log as it grows, in pieces that a page can take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
FIRST, MOST = 32 << 10, 128 << 10
LONGEST_LINE = 2000


def piece(folder: Path, name: str, begin: int) -> dict[str, Any]:
    """{lines, next}: the whole lines of the log `name` from the byte `begin` on, and where the next piece begins.

    -1 begins near the end. A log that has become shorter is read from its beginning. No lines if there is no such log.
    """
    path = folder / f"{name}.log"
    if not NAME.fullmatch(name) or not path.is_file():
        return {"lines": [], "next": 0}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - FIRST) if begin < 0 else begin if begin <= size else 0
        file.seek(start)
        read = file.read(MOST)
    cut = read.find(b"\n") + 1 if begin < 0 and start else 0
    end = read.rfind(b"\n") + 1 or (len(read) if len(read) == MOST else 0)
    lines = read[cut:end].decode("utf-8", "replace").removesuffix("\n").split("\n") if end > cut else []
    return {"lines": [line[:LONGEST_LINE] for line in lines], "next": start + end}
