"""A real deployment under load: `disagg-launch up` of the embedded engine, and clients that ask it without a pause."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pathlib
import random
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

import openai
import yaml
from certificates import certificate
from conftest import until

from disagg_launch import cli

CLIENTS = 3
PROMPTS = [f"{word} and on" for word in ("one", "two", "three", "four", "five")]
TOKENS = 16


def free_block() -> int:
    """The first of some hundred ports below those that the kernel gives away, of which those we need are free."""
    while True:
        first = random.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            # the front door and what it has inside, two instances, and behind their side ports (8 for each GPU of 8 nodes) four more
            for port in (*range(first - 1, first + 3), *range(first + 259, first + 264)):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@dataclass
class Done:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def command(*words: object) -> Done:
    """`disagg-launch WORDS`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(word) for word in words])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


class Deployment:
    """`disagg-launch up` of a topology, and its run folder; with `tls` clients come by that."""

    def __init__(self, folder: pathlib.Path, discovers: bool, tls: bool = False, **more: Any) -> None:
        self.folder, self.run = folder, folder / "run"
        self.port = free_block()
        self.topology: dict[str, Any] = {
            "name": "grows",
            "model": "random:7",
            "engine": {"name": "reference"},
            "port": self.port,
            **more,
            "cluster": {"gpus_per_node": 4, **more.get("cluster", {}), "base_port": self.port + 1},
            "context_servers": {"num_instances": 1},
            "generation_servers": {"num_instances": 1},
        }
        if discovers:
            self.topology["disagg_cluster"] = {"cluster_uri": "auto", "heartbeat_interval_sec": 1, "inactive_timeout_sec": 5}
        scheme, http = "http", None
        if tls:
            cert, key = certificate(folder)
            self.topology["router"] = {"options": {"tls_cert_file": cert.name, "tls_key_file": key.name}}
            scheme, http = "https", openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(cert)))
        argv = [sys.executable, "-m", "disagg_launch", "up", str(self.write("grows.yaml")), "--run", str(self.run)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready: "), (self.run / "logs" / "gateway.log").read_text()
        base = f"{scheme}://localhost:{self.port}/v1"
        self.client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60, http_client=http)

    @property
    def inside(self) -> str:
        """Where workers register."""
        found: str = json.loads(command("status", self.run, "--json").stdout)["router"]["inside"]
        return found

    def write(self, name: str, /, **changes: object) -> pathlib.Path:
        """The topology with changes, in a file."""
        path = self.folder / name
        path.write_text(yaml.safe_dump({**self.topology, **changes}))
        return path

    def say(self, prompt: str, stream: bool = False) -> str:
        """The text that follows a prompt."""
        answer = self.client.completions.create(model="m", prompt=prompt, max_tokens=TOKENS, temperature=0, stream=stream)
        return "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text

    def serving(self) -> set[str]:
        """The instances that are healthy, as the gateway says."""
        found = json.loads(command("status", self.run, "--json").stdout)
        return {one["name"] for one in found["instances"] if one["stage"] == "routed"}

    def pids(self) -> set[int]:
        """The processes of all ranks."""
        found = json.loads(command("status", self.run, "--json").stdout)
        return {rank["pid"] for one in found["instances"] if one["name"] not in found["resting"] for rank in one["ranks"]}

    def close(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(timeout=60)


class Load:
    """Clients that ask without a pause. `texts`: what was said to each prompt; `failures`: what went wrong."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._over = threading.Event()
        self.texts: dict[str, set[str]] = collections.defaultdict(set)
        self.failures: list[str] = []
        self.count = 0
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, requests: int) -> None:
        """Let so many more requests be answered."""
        goal = self.count + requests
        until(lambda: self.count >= goal or self.failures, f"{requests} more answers")

    def _ask(self, number: int) -> None:
        while not self._over.is_set():
            prompt = PROMPTS[(number + self.count) % len(PROMPTS)]
            try:
                self.texts[prompt].add(self._deployment.say(prompt, stream=self.count % 2 == 0))
                self.count += 1
            except openai.OpenAIError as problem:
                self.failures.append(repr(problem))
