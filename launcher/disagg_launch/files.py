"""One file of the run folder, as a value: nothing is written until everything has been rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

PLAIN = 0o644
RUNNABLE = 0o755


@dataclass(frozen=True)
class File:
    """A file to write: `path` relative to the run folder with forward slashes, its whole content, its permission bits."""

    path: str
    text: Union[str, bytes]
    mode: int = PLAIN
