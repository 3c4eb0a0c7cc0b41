"""What a deployment of the stand-ins leaves, and the ports it may take."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PATIENCE_S = 60.0
_count = itertools.count()


@dataclass(frozen=True)
class Ended:
    """A deployment after its end: exit status, what the command printed, everything else that was said, the run folder, seen starts."""

    code: int
    out: str
    err: str
    run: Path
    started: tuple[dict[str, object], ...]

    def texts(self) -> tuple[str, str]:
        """The two texts that engine_ask.py printed."""
        assert self.code == 0, f"{self.err}\n{self.logs()}"
        whole, streamed = json.loads(self.out)
        return whole, streamed

    def logs(self) -> str:
        """All log files of the run."""
        return "\n".join(f"{one.name}:\n{one.read_text()}" for one in sorted(self.run.glob("logs/*.log")))

    def environ(self, program: str) -> dict[str, str]:
        """What one started process of `program` had in its environment."""
        return next(dict(one["environ"]) for one in self.started if one["program"] == program)  # type: ignore[call-overload]


def free(port: int) -> bool:
    """Whether nobody has the port on loopback."""
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int = 6) -> int:
    """The first of some neighbouring free ports, below the range from which clients' ports come, also with an engine's offsets."""
    while True:
        first = 12_000 + (os.getpid() * 61 + next(_count) * 16) % 8_000
        if all(free(port) for port in range(first, first + count)):
            return first


def answers(url: str) -> bool:
    """Whether the url answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    """Returns when `true()` is."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)
