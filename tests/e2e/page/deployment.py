"""A real deployment: `disagg-launch up` with the reference engine, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import requests

WATCH = "watch it: "
CLI = [sys.executable, "-m", "disagg_launch"]
SPEC = """\
name: laptop
model: "random:7"
port: {port}
max_seq_len: 512
context_servers: {{num_instances: 2}}
generation_servers: {{num_instances: 1}}
cache_transceiver_config: {{backend: DEFAULT, max_tokens_in_buffer: 512}}
engine: {{name: reference}}
cluster: {{nodes: 1, gpus_per_node: 4, base_port: {base}}}
restart: {{on_failure: restart, backoff_s: 1.5, grace_s: 5}}
readiness: {{limit_s: 120}}
"""


class Deployment:
    """One that is up and ready, by `up` or other `words`. `url` is its router's; `said` what was said on standard error so far."""

    def __init__(self, folder: Path, port: int, spec: str = SPEC, *words: str) -> None:
        self.run = folder / "run"
        (folder / "spec.yaml").write_text(spec.format(port=port, base=port + 1))
        argv = [*CLI, *(words or ("up",)), str(folder / "spec.yaml"), "--run", str(self.run)]
        self._gateway = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self.url = ""
        self._told = threading.Event()  # where the page is, or that there will be none
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._told.wait()
        assert self.url, "".join(self.said)

    @property
    def token(self) -> str:
        """What it takes to act."""
        return (self.run / "state" / "token").read_text().strip()

    def status(self, name: str) -> dict[str, Any]:
        """What the gateway wrote of an instance last."""
        instances = json.loads((self.run / "state" / "status.json").read_text())["instances"]
        return next(one for one in instances if one["name"] == name)

    def ask(self, count: int = 1, tokens: int = 4) -> None:
        """Have requests answered, one after the other."""
        for number in range(count):
            body = {"model": "random:7", "prompt": [5 + number, 6, 7], "max_tokens": tokens}
            requests.post(f"{self.url}/v1/completions", json=body, timeout=120).raise_for_status()

    def end(self) -> None:
        """Stop it in order, if it is not stopped."""
        if self._gateway.poll() is None:
            subprocess.run([*CLI, "down", str(self.run)], check=True)
        self._gateway.wait(60)
        self._listener.join(10)
        assert self._gateway.stderr is not None
        self._gateway.stderr.close()

    def _listen(self) -> None:
        assert self._gateway.stderr is not None
        for line in iter(self._gateway.stderr.readline, ""):
            self.said.append(line)
            if line.startswith(WATCH):
                self.url = line.removeprefix(WATCH).strip().removesuffix("/ui")
                self._told.set()
        self._told.set()
