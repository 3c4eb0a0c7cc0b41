"""Our router and workers that make themselves known: through its own storage, through etcd, and through a metadata server."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import EtcdServer, free_port, until

STANDIN = pathlib.Path(__file__).parents[1] / "router" / "standin.py"
PREFIX = "/trtllm-disagg/test/workers"
TIMES = {"heartbeat_interval_sec": 1, "inactive_timeout_sec": 3}


def call(method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
    """(status, JSON or text, headers) of a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            text, status, head = answer.read(), answer.status, dict(answer.headers)
    except urllib.error.HTTPError as no:
        text, status, head = no.read(), no.code, dict(no.headers)
    return status, json.loads(text) if text else None, {k.lower(): v for k, v in head.items()}


class Yard:
    """The processes of one test."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.router_port = free_port()
        self.router = f"http://127.0.0.1:{self.router_port}"
        self.uri = self.router
        self.minimal = {"context_servers": 1, "generation_servers": 1}
        self.processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, *argv: object, **environ: str) -> subprocess.Popen[bytes]:
        """A process that ends with the test."""
        process = subprocess.Popen([str(word) for word in argv], env={**os.environ, **environ})
        self.processes.append(process)
        return process

    def open_router(self, metadata: dict[str, Any] | None = None, **front_door: Any) -> subprocess.Popen[bytes]:
        """The front door; back when it answers."""
        config: dict[str, Any] = {"hostname": "127.0.0.1", "port": self.router_port}
        config["front_door"] = {"health_interval_s": 0.3, **front_door}
        extra: list[object] = []
        if metadata is None:
            config["disagg_cluster"] = {"cluster_uri": self.uri, "cluster_name": "test", "minimal_instances": self.minimal, **TIMES}
        else:
            (self.folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
            extra = ["-m", self.folder / "metadata.yaml"]
        path = self.folder / "router.yaml"
        path.write_text(yaml.safe_dump(config))
        process = self.spawn(sys.executable, "-m", "disagg_launch", "router", "-c", path, "--drain", "1", *extra)
        until(self.answers, "the front door")
        return process

    def worker(self, role: str, registered: bool = True) -> tuple[subprocess.Popen[bytes], int]:
        """A worker and its port, with a companion that registers it."""
        port = free_port()
        argv: list[object] = [sys.executable, STANDIN, role, port]
        if registered:
            options = f"--disagg_cluster_uri {self.uri} --cluster_name test --server_role {role} --host 127.0.0.1 --port {port}".split()
            times = ["--heartbeat_interval_sec", 0.5, "--inactive_timeout_sec", 3]
            argv = [sys.executable, "-m", "disagg_launch.runtime", "register", *options, *times, "--", *argv]
        return self.spawn(*argv), port

    def info(self) -> dict[str, Any]:
        """/cluster_info."""
        found: dict[str, Any] = call("GET", f"{self.router}/cluster_info")[1]
        return found

    def ports(self, role: str) -> list[int]:
        """The ports of a role's current workers, sorted."""
        return sorted(row["port"] for row in self.info()["current_workers"][f"{role}_servers"])

    def ask(self) -> int:
        """The status of one completion."""
        body = {"model": "m", "prompt": "say", "max_tokens": 3}
        return call("POST", f"{self.router}/v1/completions", body)[0]

    def free_port(self) -> int:
        """A port for a worker."""
        return free_port()

    def answers(self) -> bool:
        """Whether the front door answers at all."""
        with contextlib.suppress(OSError):
            return call("GET", f"{self.router}/version")[0] == 200
        return False

    def close(self) -> None:
        """End everything."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def yard(tmp_path: pathlib.Path) -> Iterator[Yard]:
    """Room for processes."""
    made = Yard(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=["http", "etcd"])
def clustered(request: pytest.FixtureRequest, yard: Yard) -> Yard:
    """A yard whose cluster is kept by the router, then by etcd."""
    if request.param == "etcd":
        yard.uri = f"etcd://{request.getfixturevalue('etcd').endpoint}"
    return yard


def test_ready_when_the_minimal_instances_are_and_not_before(clustered: Yard) -> None:
    clustered.minimal = {"context_servers": 1, "generation_servers": 2}
    clustered.open_router()
    _, context = clustered.worker("context")
    _, first = clustered.worker("generation")
    until(lambda: (clustered.ports("context"), clustered.ports("generation")) == ([context], [first]), "1 + 1")
    status, _, headers = call("GET", f"{clustered.router}/health")
    assert status == 503
    assert headers["retry-after"]
    status, said, headers = call("POST", f"{clustered.router}/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 1})
    assert status == 503
    assert headers["retry-after"]
    assert "1 of 2 generation servers" in json.dumps(said)
    process, second = clustered.worker("generation")
    until(lambda: clustered.info()["is_ready"], "readiness")
    assert clustered.ports("generation") == sorted([first, second])
    row = clustered.info()["current_workers"]["context_servers"][0]
    assert row["worker_id"].startswith(f"CONTEXT-127.0.0.1:{context}-")
    assert (row["host"], row["role"]) == ("127.0.0.1", 0)
    assert clustered.info()["minimal_instances"] == clustered.minimal
    assert clustered.ask() == 200
    process.send_signal(signal.SIGTERM)  # its companion takes it out
    until(lambda: not clustered.info()["is_ready"], "the end of readiness")
    assert clustered.ask() == 503
    clustered.worker("generation")
    until(lambda: clustered.info()["is_ready"], "its return")
    assert clustered.ask() == 200


def test_a_restarted_router_finds_everybody_again(clustered: Yard) -> None:
    router = clustered.open_router()
    context, generation = clustered.worker("context")[1], clustered.worker("generation")[1]
    until(lambda: clustered.info()["is_ready"], "readiness")
    router.kill()
    router.wait()
    clustered.open_router()
    until(lambda: clustered.info()["is_ready"], "readiness after the restart")
    assert (clustered.ports("context"), clustered.ports("generation")) == ([context], [generation])
    assert clustered.ask() == 200


def test_an_etcd_that_is_away_takes_nobody_with_it(yard: Yard, etcd: EtcdServer) -> None:
    yard.uri = f"etcd://{etcd.endpoint}"
    yard.open_router()
    yard.worker("context")
    yard.worker("generation")
    until(lambda: yard.info()["is_ready"], "readiness")
    etcd.kill()
    for _ in range(10):  # longer than the entries live
        assert yard.ask() == 200
        time.sleep(0.4)
    etcd.start()
    _, late = yard.worker("generation")
    until(lambda: late in yard.ports("generation"), "one that came after the restart")
    assert len(yard.ports("generation")) == 2
    assert yard.ask() == 200


def test_a_worker_that_only_missed_its_heartbeats_stays(yard: Yard) -> None:
    """Registered by hand and never refreshed: well, so it is kept; then killed, so it goes."""
    yard.open_router()
    yard.worker("context")
    process, port = yard.worker("generation", registered=False)
    value = json.dumps({"worker_id": "GENERATION-1", "host": "127.0.0.1", "port": port, "role": 1})
    item = {"key": f"{PREFIX}/GENERATION-1", "value": value, "expire_time": -1, "ttl": 1, "overwrite_if_exists": False}
    assert call("POST", f"{yard.router}/set", item)[0] == 200
    until(lambda: yard.info()["is_ready"], "readiness")
    until(lambda: call("GET", f"{yard.router}/get?key={item['key']}")[0] == 400, "the end of its entry")
    time.sleep(1.5)
    assert yard.ports("generation") == [port]
    assert yard.ask() == 200
    process.kill()
    process.wait()
    until(lambda: yard.ports("generation") == [], "its end")


def test_nonsense_in_the_storage_is_passed_over(yard: Yard) -> None:
    yard.open_router()
    for number, value in enumerate(["", "{", "[]", '{"worker_id": "x", "host": "a b", "port": 1, "role": 0}']):
        assert call("POST", f"{yard.router}/set", {"key": f"{PREFIX}/{number}", "value": value})[0] == 200
    _, port = yard.worker("context")
    until(lambda: yard.ports("context") == [port], "the one that is a worker")


def test_others_need_a_token_to_register(yard: Yard) -> None:
    """A port that others can reach: no token, no start; with one, strangers are refused and our workers come in."""
    path = yard.folder / "r.yaml"
    cluster = {"cluster_uri": yard.router, "cluster_name": "test", **TIMES}
    path.write_text(yaml.safe_dump({"hostname": "0.0.0.0", "port": yard.router_port, "disagg_cluster": cluster}))
    refused = subprocess.run([sys.executable, "-m", "disagg_launch", "router", "-c", path], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "cluster_token_file" in refused.stderr
    (yard.folder / "token").write_text("sesame\n")
    yard.open_router(cluster_token_file=str(yard.folder / "token"))
    assert call("POST", f"{yard.router}/set", {"key": "/a"})[0] == 403
    assert call("GET", f"{yard.router}/get_prefix?key_prefix=/")[0] == 403
    os.environ["DISAGG_CLUSTER_TOKEN_FILE"] = str(yard.folder / "token")
    try:
        _, port = yard.worker("context")
    finally:
        del os.environ["DISAGG_CLUSTER_TOKEN_FILE"]
    until(lambda: yard.ports("context") == [port], "a worker with the token")


def test_the_metadata_server(yard: Yard, etcd: EtcdServer) -> None:
    from disagg_launch.runtime.etcd import Etcd

    host, _, port = etcd.endpoint.rpartition(":")
    yard.open_router({"server_type": "etcd", "hostname": host, "port": int(port), "refresh_interval": 0.3, "health_check_timeout": 1})
    store = Etcd([etcd.endpoint])
    workers = {}
    for number, role in enumerate(["context", "generation", "generation"]):
        process, own = yard.worker(role, registered=False)
        workers[number] = (process, own)
        value = {
            "model": "m",
            "version": "1",
            "timestamp": "2026-01-01T00:00:00",
            "server_role": role.upper(),
            "url": f"http://127.0.0.1:{own}",
        }
        until(lambda own=own: _well(own), "the worker")  # type: ignore[misc]
        store.set(f"trtllm/{number}", json.dumps(value))
    store.set("trtllm/other", "{}")
    until(lambda: len(yard.ports("generation")) == 2 and yard.info()["is_ready"], "all of them")
    assert yard.ask() == 200
    store.delete("trtllm/1")  # the safe removal: key, then wait, then stop
    until(lambda: yard.ports("generation") == [workers[2][1]], "the removal")
    assert _well(workers[1][1])
    assert yard.ask() == 200
    workers[2][0].kill()
    until(lambda: store.get("trtllm/2") is None, "the dead one's key")
    until(lambda: yard.ports("generation") == [], "the dead one's removal")
    assert store.get("trtllm/other") == "{}"


def _well(port: int) -> bool:
    with contextlib.suppress(OSError):
        return call("GET", f"http://127.0.0.1:{port}/health")[0] == 200
    return False


@pytest.mark.parametrize("stalled", ["router", "etcd"])
def test_a_storage_that_stalled_charges_nobody(yard: Yard, stalled: str, request: pytest.FixtureRequest) -> None:
    """Stopped in its tracks for longer than any entry lives: whoever was alive is still there when it goes on, under the same name."""
    etcd: EtcdServer | None = request.getfixturevalue("etcd") if stalled == "etcd" else None
    yard.uri = f"etcd://{etcd.endpoint}" if etcd else yard.uri
    router = yard.open_router()
    yard.worker("context")
    yard.worker("generation")
    until(lambda: yard.info()["is_ready"], "readiness")
    before = yard.info()["current_workers"]
    pid = etcd.pid if etcd else router.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(TIMES["inactive_timeout_sec"] + 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    for _ in range(10):
        now = yard.info()
        assert now["is_ready"]
        assert [row["port"] for rows in now["current_workers"].values() for row in rows] == [
            row["port"] for rows in before.values() for row in rows
        ]
        assert yard.ask() == 200
        time.sleep(0.2)
