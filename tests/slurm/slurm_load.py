"""Load from the login host, as a test sees it: what was answered so far, and what failed."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
from pathlib import Path

from slurm_hosts import Cluster, wait_for

PROMPTS = [f"{word} and on" for word in ("one", "two", "three", "four", "five")]
PROGRAM = Path(__file__).with_name("load.py")
CLIENTS = 3


class Load:
    """Clients at work as long as the context lasts. `texts`: what was said to each prompt; `failures`: the errors, in words."""

    def __init__(self, cluster: Cluster, url: str, cert: Path | str = "") -> None:
        self._argv = [cluster.enter, sys.executable, str(PROGRAM), url, str(cert), str(CLIENTS), *PROMPTS]
        self.texts: dict[str, set[str]] = collections.defaultdict(set)
        self.failures: list[str] = []
        self.count = 0

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()

    def more(self, answers: int) -> None:
        """Let so many more requests be answered."""
        goal = self.count + answers
        wait_for(lambda: self.count >= goal, why=f"for {answers} more answers ({self.failures[-3:]})")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "error" in told:
                self.failures.append(told["error"])
            else:
                self.texts[told["prompt"]].add(told["text"])
                self.count += 1
