"""A worker process and how to talk to it."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests


@dataclass
class Worker:
    """A worker process (or an mpiexec of several) that serves on `url`."""

    process: subprocess.Popen[str]
    url: str
    log: pathlib.Path

    def post(self, path: str, **body: object) -> requests.Response:
        """The answer to a JSON body."""
        return requests.post(self.url + path, json=body, timeout=60)

    def complete(self, prompt: object, **body: object) -> dict:
        """The JSON of a greedy completion."""
        response = self.post("/v1/completions", **{"prompt": prompt, "temperature": 0, "max_tokens": 16, **body})
        assert response.status_code == 200, response.text
        return response.json()

    def until_ready(self) -> Worker:
        """This worker, once /health says 200. Fails if it ends before, with its log."""
        while self.process.poll() is None:
            try:
                if requests.get(self.url + "/health", timeout=5).status_code == 200:
                    return self
            except requests.ConnectionError:
                time.sleep(0.05)
        raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log.read_text()}")

    def end(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.terminate()
        return self.process.wait(60)


Start = Callable[..., Worker]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool]) -> bool:
    """True once the condition holds; False if it does not within half a minute."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
