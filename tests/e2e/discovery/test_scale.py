"""A deployment that grows, shrinks, restarts and is upgraded while clients go on asking: no request fails and every text is right."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import openai
import pytest
import yaml
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
            # the front door, two instances, and behind their side ports (8 for each GPU of 8 nodes) four more
            for port in (*range(first, first + 3), *range(first + 259, first + 264)):
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
    """`disagg-launch up` of a topology, and its run folder."""

    def __init__(self, folder: pathlib.Path, discovers: bool, cluster: dict[str, int]) -> None:
        self.folder, self.run = folder, folder / "run"
        self.port = free_block()
        self.topology = {
            "name": "grows",
            "model": "random:7",
            "engine": {"name": "reference"},
            "port": self.port,
            "cluster": {"gpus_per_node": 4, **cluster, "base_port": self.port + 1},
            "context_servers": {"num_instances": 1},
            "generation_servers": {"num_instances": 1},
        }
        if discovers:
            self.topology["disagg_cluster"] = {"cluster_uri": "auto", "heartbeat_interval_sec": 1, "inactive_timeout_sec": 5}
        argv = [sys.executable, "-m", "disagg_launch", "up", str(self.write("grows.yaml")), "--run", str(self.run)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready: "), (self.run / "logs" / "gateway.log").read_text()
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=60)

    def write(self, name: str, **changes: object) -> pathlib.Path:
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
        return {one["name"] for one in found["instances"] if one["stage"] == "healthy"}

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


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Deployment]]:
    """Starts one context and one generation server of the embedded engine; with True, they make themselves known."""
    made: list[Deployment] = []

    def begin(discovers: bool, cluster: dict[str, int] = {}) -> Deployment:  # noqa: B006
        made.append(Deployment(tmp_path, discovers, cluster))
        return made[-1]

    yield begin
    for one in made:
        one.close()


@pytest.mark.parametrize("discovers", [False, True], ids=["static", "cluster"])
def test_there_and_back_under_load(start: Callable[[bool], Deployment], discovers: bool) -> None:
    deployment = start(discovers)
    right = {prompt: {deployment.say(prompt)} for prompt in PROMPTS}
    with Load(deployment) as load:
        load.more(5)
        grown = command("scale", deployment.run, "ctx=3", "gen=+2")
        assert grown.returncode == 0, grown.stderr
        assert "0 ranks move, 2 stay, 0 go, 4 come" in grown.stdout
        assert deployment.serving() == {"ctx0", "ctx1", "ctx2", "gen0", "gen1", "gen2"}
        load.more(30)
        shrunk = command("scale", deployment.run, "ctx=1", "gen=1")
        assert shrunk.returncode == 0, shrunk.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        load.more(10)
    assert load.failures == []
    assert load.texts == right


def test_one_by_one_and_what_cannot_be(start: Callable[[bool], Deployment]) -> None:
    """`restart`, `upgrade` and `remove`; wishes that cannot be granted change nothing."""
    deployment = start(False)
    before = deployment.say(PROMPTS[0])
    assert command("scale", deployment.run, "gen=+1").returncode == 0
    with Load(deployment) as load:
        done = command("restart", deployment.run, "gen0", "gen1")
        assert done.returncode == 0, done.stderr
    assert load.failures == []
    assert {text for found in load.texts.values() for text in found} >= {before}
    for words in (["gen=0"], ["gen=x"], ["ctx=-1"]):
        assert command("scale", deployment.run, *words).returncode == 2
    assert command("remove", deployment.run, "gen7").returncode == 2
    assert command("remove", deployment.run, "gen0").returncode == 0
    assert command("remove", deployment.run, "gen0").returncode == 2
    assert command("restart", deployment.run, "gen0").returncode == 2
    assert deployment.serving() == {"ctx0", "gen1"}
    assert deployment.say(PROMPTS[0]) == before
    bad = command(
        "upgrade", deployment.run, deployment.write("bigger.yaml", generation_servers={"tensor_parallel_size": 2, "num_instances": 1})
    )
    assert bad.returncode == 2
    assert command("upgrade", deployment.run, deployment.write("other.yaml", model="random:9")).returncode == 0
    other = deployment.say(PROMPTS[0])
    assert other != before
    broken = command("upgrade", deployment.run, deployment.write("broken.yaml", model="no-such-model"))
    assert broken.returncode == 5
    assert "ctx1 did not come up" in broken.stderr
    assert deployment.say(PROMPTS[0]) == other  # who should have stood in did not, so nobody was touched


@pytest.mark.parametrize("discovers", [False, True], ids=["static", "cluster"])
def test_the_only_ones_are_replaced_and_nobody_notices(start: Callable[[bool], Deployment], discovers: bool) -> None:
    """One instance of each role, and at least one of each has to serve: another stands in, under load, without a failed request."""
    deployment = start(discovers)
    right = {prompt: {deployment.say(prompt)} for prompt in PROMPTS}
    pids = deployment.pids()
    with Load(deployment) as load:
        load.more(5)
        restarted = command("restart", deployment.run, "ctx0", "gen0")
        assert restarted.returncode == 0, restarted.stderr
        assert "ctx1, gen1 stands in" in restarted.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        upgraded = command("upgrade", deployment.run, deployment.write("other.yaml", max_batch_size=7))
        assert upgraded.returncode == 0, upgraded.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        removed = command("remove", deployment.run, "gen0")
        assert removed.returncode == 0, removed.stderr
        assert "gen1 is started first" in removed.stderr
        load.more(10)
    assert load.failures == []
    assert load.texts == right
    assert deployment.serving() == {"ctx0", "gen1"}
    assert not pids & deployment.pids()


def test_without_room_to_stand_in_nothing_is_touched(start: Callable[..., Deployment]) -> None:
    deployment = start(True, cluster={"nodes": 1, "gpus_per_node": 2})
    pids = deployment.pids()
    other = deployment.write("other.yaml", max_batch_size=7)
    for words in (["restart", deployment.run, "gen0"], ["remove", deployment.run, "gen0"], ["upgrade", deployment.run, other]):
        refused = command(*words)
        assert refused.returncode == 3, refused.stderr
        assert "no room for one more to stand in" in refused.stderr
        assert ("--interrupt" in refused.stderr) == (words[0] != "remove")
    assert deployment.pids() == pids
    assert command("restart", deployment.run, "gen0", "--interrupt").returncode == 0
    assert deployment.pids() != pids
    until(lambda: deployment.say(PROMPTS[0]), "an answer")
