"""Both ways across: workers in TensorRT-LLM's shape at our router, and our worker at a router in TensorRT-LLM's shape.

The stand-ins are made from the interface's description alone and share no code with ours.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import yaml
from conftest import EtcdServer, until
from deployment_under_load import Deployment, command
from test_front_door import TIMES, Yard, call

BIN = pathlib.Path(__file__).parents[2] / "standins" / "bin" / "trtllm-serve"
MODEL = {"STANDIN_PYTHON": sys.executable, "STANDIN_MODEL": "random:7", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}
STRICT = {"disable_overlap_scheduler": True, "cache_transceiver_config": {"backend": "DEFAULT"}}
PROMPT = {"model": "m", "prompt": "across", "max_tokens": 5, "temperature": 0}


@pytest.fixture
def yard(tmp_path: pathlib.Path) -> Iterator[Yard]:
    """Room for processes."""
    made = Yard(tmp_path)
    yield made
    made.close()


def cluster(yard: Yard) -> dict[str, object]:
    """The map that both sides read."""
    return {"cluster_uri": yard.uri, "cluster_name": "test", **TIMES}


def worker_file(yard: Yard, role: str) -> pathlib.Path:
    """A worker YAML of a role."""
    path = yard.folder / f"{role}.yaml"
    path.write_text(yaml.safe_dump({**STRICT, "disagg_cluster": cluster(yard)}))
    return path


def answer(yard: Yard) -> str:
    """What the front door says to the prompt."""
    status, said, _ = call("POST", f"{yard.router}/v1/completions", PROMPT)
    assert status == 200, said
    text: str = said["choices"][0]["text"]
    return text


def upstream_worker(yard: Yard, role: str, port: int) -> None:
    """`trtllm-serve` as a worker that registers."""
    argv = ["bash", BIN, "some/model", "--host", "127.0.0.1", "--port", port, "--server_role", role]
    yard.spawn(*argv, "--extra_llm_api_options", worker_file(yard, role), **MODEL)


def own_worker(yard: Yard, role: str, port: int) -> None:
    """Our worker, in the documentation's spelling of the role's flag."""
    argv = [sys.executable, "-m", "disagg_launch.reference", "random:7", "--host", "127.0.0.1", "--port", port, f"--server-role={role}"]
    yard.spawn(*argv, "--config", worker_file(yard, role), OMP_NUM_THREADS="1")


@pytest.mark.parametrize("kind", ["http", "etcd"])
def test_upstream_s_workers_and_ours_at_either_router_say_the_same(yard: Yard, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd")
        yard.uri = f"etcd://{server.endpoint}"
    router = yard.open_router()
    upstream_worker(yard, "CONTEXT", yard.free_port())
    own_worker(yard, "GENERATION", yard.free_port())
    until(lambda: yard.info()["is_ready"], "readiness of our router")
    said = answer(yard)
    router.terminate()
    router.wait()
    config = {"hostname": "127.0.0.1", "port": yard.router_port, "backend": "pytorch", "disagg_cluster": cluster(yard)}
    (yard.folder / "disagg_config.yaml").write_text(yaml.safe_dump(config))
    yard.spawn("bash", BIN, "disaggregated", "-c", yard.folder / "disagg_config.yaml", **MODEL)
    until(lambda: yard.answers() and yard.info()["is_ready"], "readiness of upstream's router: both find it without being told")
    assert answer(yard) == said


def test_a_deployment_behind_upstream_s_router_grows_and_shrinks(start: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no admin interface: who registers there is given requests, and who leaves is not."""
    monkeypatch.setenv("PATH", f"{BIN.parent}:{os.environ['PATH']}")
    for name, value in MODEL.items():
        monkeypatch.setenv(name, value)
    deployment = start(True, router={"name": "trtllm"})
    said = deployment.say("across")
    grown = command("scale", deployment.run, "gen=2", "ctx=2")
    assert grown.returncode == 0, grown.stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{deployment.port}/cluster_info") as answer:
        told = json.loads(answer.read())["current_workers"]
    assert {role: len(rows) for role, rows in told.items()} == {"context_servers": 2, "generation_servers": 2}
    assert {deployment.say("across") for _ in range(4)} == {said}
    assert command("scale", deployment.run, "gen=1", "ctx=1").returncode == 0
    assert deployment.say("across") == said
    assert "ctx1     stopped" in command("status", deployment.run).stdout
