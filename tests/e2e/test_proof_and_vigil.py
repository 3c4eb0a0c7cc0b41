"""Real reference workers: a KV path that does not work is found before ready, and a worker that stops answering after it."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import yaml
from free_ports import free_ports
from test_whole_path import _of_run, answer, ended, up

CLI = [sys.executable, "-m", "disagg_launch"]
STANDINS = pathlib.Path(__file__).parents[1] / "standins"


class Deployment:
    """`up` of a small deployment of reference workers."""

    def __init__(self, folder: pathlib.Path, **changes: Any) -> None:
        base = free_ports(8)
        spec = {
            "model": "random:7",
            "port": base,
            "max_seq_len": 512,
            "context_servers": {"num_instances": 2},
            "generation_servers": {"num_instances": 2},
            "engine": {"name": "reference"},
            "cluster": {"nodes": 1, "gpus_per_node": 8, "base_port": base + 1},
            "readiness": {"limit_s": 120},
            **changes,
        }
        folder.mkdir(exist_ok=True)
        path = folder / "small.yaml"
        path.write_text(yaml.safe_dump(spec))
        self.url, self.run = f"http://localhost:{base}", folder / "run"
        self.gateway = up(path)
        assert self.gateway.stdout is not None
        self.said = self.gateway.stdout.readline()

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        lines = (self.run / "state" / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] in kinds]

    def status(self) -> dict[str, Any]:
        found = json.loads((self.run / "state" / "status.json").read_text())
        return {one["name"]: one for one in found["instances"]}

    def pid(self, name: str) -> int:
        return int(self.status()[name]["ranks"][0]["pid"])

    def down(self) -> None:
        subprocess.run([*CLI, "down", str(self.run)], check=True)
        assert ended(self.gateway)[0] == 0


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A place for a run of which nothing is left."""
    yield tmp_path
    left = _of_run(tmp_path)
    for one in left:
        one.kill()
    assert left == []


def until(condition: Callable[[], object], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_every_pair_is_proved_before_ready_and_a_restarted_instance_before_it_is_routed(folder: pathlib.Path) -> None:
    one = Deployment(folder, restart={"on_failure": "restart", "backoff_s": 0.1, "grace_s": 5})
    assert one.said.startswith("ready: ")
    proofs = one.events("proof")
    assert sorted((p["context"], p["generation"], p["ok"]) for p in proofs) == [
        (c, g, True) for c in ("ctx0", "ctx1") for g in ("gen0", "gen1")
    ]
    [opened] = one.events("router")
    assert all(p["t"] <= opened["t"] for p in proofs)
    os.kill(one.pid("gen1"), signal.SIGKILL)
    until(lambda: one.status()["gen1"]["restarts"] == 1 and one.status()["gen1"]["stage"] == "routed")
    late = [e for e in one.events("stage", "proof") if e["t"] > opened["t"] and e["instance"] == "gen1" and e.get("life", 2) == 2]
    told = [e.get("stage", "proof") for e in late]
    assert told[0] == "started" and "role taken" in told and told[-1] == "routed"
    assert "proof" in told[told.index("healthy") :] and "routed" not in told[: told.index("proof")]
    assert answer(one.url)
    one.down()


def test_a_kv_path_that_does_not_work_is_a_verdict_that_names_the_pairs(folder: pathlib.Path) -> None:
    # what a context worker says of where its KV is fetched is an address on which nobody listens
    broken = {"num_instances": 2, "env": {"DISAGG_ADVERTISE": "127.9.9.9"}}
    one = Deployment(folder, context_servers=broken, generation_servers={"num_instances": 1})
    assert one.said == ""
    status, said = ended(one.gateway)
    assert status == 5, said
    verdict = json.loads((one.run / "state" / "verdict.json").read_text())
    assert "2 of 2 pairs" in verdict["reason"] and "ctx1 -> gen0: generation hop: " in verdict["reason"]
    assert {(p["context"], p["ok"]) for p in one.events("proof")} == {("ctx0", False), ("ctx1", False)}
    assert one.events("router") == []


def test_proof_can_be_switched_off(folder: pathlib.Path) -> None:
    broken = {"num_instances": 1, "env": {"DISAGG_ADVERTISE": "127.9.9.9"}}
    one = Deployment(folder, context_servers=broken, generation_servers={"num_instances": 1}, readiness={"limit_s": 120, "prove": "none"})
    assert one.said.startswith("ready: ") and one.events("proof") == []
    one.down()


def replaced(one: Deployment, name: str, stopped: int) -> None:
    """Comes back when the instance whose process was stopped has been found, looked at and started again."""
    until(lambda: one.status()[name]["stage"] == "routed" and one.pid(name) != stopped)
    assert (name, False) in [(e["instance"], e["ok"]) for e in one.events("suspect")]
    [restart] = one.events("restart")
    assert restart["instance"] == name and "has not answered for 8 s (restart.hang_s)" in restart["text"]
    assert f"pid {stopped} " in (one.run / "logs" / f"{name}.stacks").read_text()
    assert answer(one.url)
    one.down()


def test_a_worker_that_stops_answering_is_suspected_looked_at_and_replaced(folder: pathlib.Path) -> None:
    """Behind our router, which says who is busy, and behind another's, past which each worker is asked by itself."""
    restart = {"on_failure": "restart", "backoff_s": 0.1, "grace_s": 2, "hang_s": 8}
    foreign = {"name": "trtllm", "command": [str(STANDINS / "bin" / "trtllm-serve")], "env": {"STANDIN_PYTHON": sys.executable}}
    one, other = Deployment(folder / "ours", restart=restart), Deployment(folder / "theirs", restart=restart, router=foreign)
    assert one.said.startswith("ready: ") and other.said.startswith("ready: ")
    stopped, stopped_there = one.pid("gen0"), other.pid("ctx1")
    os.kill(stopped, signal.SIGSTOP)
    os.kill(stopped_there, signal.SIGSTOP)
    until(lambda: one.events("restart"))
    # while it hung, requests went to the other one
    assert answer(one.url)
    replaced(one, "gen0", stopped)
    replaced(other, "ctx1", stopped_there)


def test_a_worker_that_answers_again_in_time_is_taken_back(folder: pathlib.Path) -> None:
    one = Deployment(folder, restart={"on_failure": "restart", "hang_s": 40})
    assert one.said.startswith("ready: ")
    paused = one.pid("ctx1")
    os.kill(paused, signal.SIGSTOP)
    until(lambda: one.status()["ctx1"]["suspect"])
    os.kill(paused, signal.SIGCONT)
    until(lambda: not one.status()["ctx1"]["suspect"])
    assert one.pid("ctx1") == paused and one.events("restart") == []
    workers = requests.get(f"{one.url}/cluster_info", timeout=30).json()["current_workers"]["context_servers"]
    assert len(workers) == 2
    one.down()


def test_a_busy_worker_is_left_alone(folder: pathlib.Path) -> None:
    """It takes one request at a time, and streams for much longer than `hang_s`: a token on demand has to wait for it."""
    slow = {"num_instances": 1, "max_batch_size": 1}
    restart = {"on_failure": "restart", "hang_s": 6}
    model = "random:7,context=20000,layers=24"
    one = Deployment(folder, model=model, max_seq_len=20000, context_servers={"num_instances": 1}, generation_servers=slow, restart=restart)
    assert one.said.startswith("ready: ")
    worker, deadline = one.pid("gen0"), time.monotonic() + 20
    body = {"prompt": [5, 6, 7], "max_tokens": 19000, "ignore_eos": True, "stream": True, "temperature": 0}
    with requests.post(f"{one.url}/v1/completions", json=body, stream=True, timeout=60) as reply:
        for line in reply.iter_lines():
            assert not line.startswith(b"data: [DONE]"), "too quick for this test: give it more tokens"
            if time.monotonic() > deadline:
                break
    assert one.events("restart") == [] and one.pid("gen0") == worker
    one.down()
