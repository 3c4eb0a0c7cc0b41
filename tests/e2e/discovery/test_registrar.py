"""A worker's side: when it is registered, what it survives, and that its entry leaves with it."""

from __future__ import annotations

import http.server
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import worker
from conftest import EtcdServer, Storage, free_port, until

from disagg_launch.plan import GENERATION
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime.cluster import Cluster
from disagg_launch.runtime.metadata import Metadata, read_entry
from disagg_launch.runtime.registrar import Entry, Probed, Registrar, announce, register
from disagg_launch.runtime.stores import EXPIRED, SET, Change, HttpStore, connect


class Worker:
    """An HTTP server whose health can be set."""

    def __init__(self, port: int = 0) -> None:
        self.health = type("OwnHealth", (worker.Health,), {})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self.health)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serving() -> Iterator[Worker]:
    """A healthy worker."""
    one = Worker()
    yield one
    one.stop()


def entries(cluster: Cluster) -> list[str]:
    """The urls registered in a cluster, sorted."""
    found = connect(cluster.uri).prefix(cluster.prefix)
    return sorted(clusters.member(value).url for value in found.values())


def quick(uri: str) -> Cluster:
    """A cluster whose workers beat fast."""
    return Cluster(uri, "t", heartbeat_s=0.3, inactive_s=2)


def test_registered_once_the_port_answers_and_not_before(storage: Storage) -> None:
    cluster, port = quick(storage.uri), free_port()
    registrar = register(cluster, GENERATION, "127.0.0.1", port)
    assert not registrar.registered.wait(0.5)
    assert entries(cluster) == []
    late = Worker(port)
    try:
        assert registrar.registered.wait(10)
        assert entries(cluster) == [f"127.0.0.1:{port}"]
        registrar.leave()
        assert entries(cluster) == []
    finally:
        late.stop()


def test_loading_is_not_serving(storage: Storage, serving: Worker) -> None:
    serving.health.status = 503
    registrar = register(quick(storage.uri), GENERATION, "127.0.0.1", serving.port)
    assert not registrar.registered.wait(0.5)
    serving.health.status = 200
    assert registrar.registered.wait(10)
    registrar.leave()


def test_heartbeats_keep_the_entry_and_their_end_ends_it(storage: Storage, serving: Worker) -> None:
    cluster = Cluster(storage.uri, heartbeat_s=0.3, inactive_s=1)
    registrar = register(cluster, GENERATION, "127.0.0.1", serving.port)
    assert registrar.registered.wait(10)
    assert not threading.Event().wait(2)
    assert len(entries(cluster)) == 1
    serving.health.status = 503  # alive, but unfit: it has to be forgotten
    until(lambda: not entries(cluster), "the end of its entry")
    serving.health.status = 200
    until(lambda: entries(cluster), "its return")
    registrar.leave()


def test_a_storage_that_answers_nothing_does_not_hold_up_a_worker_that_ends(
    storage: Storage, serving: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    registrar = Registrar(HttpStore(storage.uri, call_s=600), Entry("/one", "", 5, 0.3), Probed("127.0.0.1", serving.port))
    registrar.start()
    assert registrar.registered.wait(10)
    goes_on = threading.Event()
    monkeypatch.setattr(storage.memory, "delete", lambda key: goes_on.wait(300))
    leaving = threading.Thread(target=registrar.leave, daemon=True)
    leaving.start()
    leaving.join(60)
    still = leaving.is_alive()
    goes_on.set()
    assert not still


def test_clocks_may_step(serving: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day of worker and storage jumps by hours at each look at it; nothing expires, and nothing lives for ever."""
    jumps = itertools.cycle([0, 7200, -86400, 3])
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + next(jumps))
    storage = Storage()
    try:
        heard: list[Change] = []
        storage.memory.watch("/", heard.append)
        registrar = register(Cluster(storage.uri, heartbeat_s=0.3, inactive_s=1), GENERATION, "127.0.0.1", serving.port)
        assert registrar.registered.wait(10)
        for _ in range(25):
            storage.memory.sweep()
            assert not threading.Event().wait(0.1)
        assert [change.kind for change in heard] == [SET]
        serving.health.status = 503
        until(lambda: storage.memory.sweep() or heard[-1].kind == EXPIRED, "the end of what is not refreshed")
        registrar.leave()
    finally:
        storage.stop()


def test_a_storage_that_forgot_is_told_again(serving: Worker) -> None:
    storage = Storage()
    registrar = register(quick(storage.uri), GENERATION, "127.0.0.1", serving.port)
    assert registrar.registered.wait(10)
    storage.stop()
    fresh = Storage(port=storage.port)
    try:
        until(lambda: len(entries(quick(fresh.uri))) == 1, "the entry in the new storage")
        assert list(fresh.memory.prefix("/")) == [registrar.entry.key]
    finally:
        registrar.leave()
        fresh.stop()


def test_a_lost_entry_is_put_back_over_whatever_is_there(storage: Storage, serving: Worker) -> None:
    registrar = register(quick(storage.uri), GENERATION, "127.0.0.1", serving.port)
    assert registrar.registered.wait(10)
    store = connect(storage.uri)
    store.delete(registrar.entry.key)
    until(lambda: store.get(registrar.entry.key) == registrar.entry.value, "the entry")
    registrar.leave()


def test_an_etcd_that_is_killed_loses_nobody(etcd: EtcdServer, serving: Worker) -> None:
    cluster = quick(f"etcd://{etcd.endpoint}")
    registrar = register(cluster, GENERATION, "127.0.0.1", serving.port)
    assert registrar.registered.wait(10)
    etcd.kill()
    assert not threading.Event().wait(2.5)
    etcd.start()
    until(lambda: entries(cluster) == [f"127.0.0.1:{serving.port}"], "the entry after the restart")
    registrar.leave()
    assert entries(cluster) == []


def test_leaving_takes_no_time_when_nobody_answers(serving: Worker) -> None:
    registrar = register(quick("http://127.0.0.1:9"), GENERATION, "127.0.0.1", serving.port)
    assert not registrar.registered.wait(0.3)
    registrar.leave()
    assert not registrar.is_alive()


def test_the_metadata_server_knows_it_while_it_serves(etcd: EtcdServer, serving: Worker) -> None:
    host, _, port = etcd.endpoint.rpartition(":")
    metadata = Metadata("etcd", host, int(port), refresh_interval=0.3)
    registrar = announce(metadata, GENERATION, "127.0.0.1", serving.port, "tiny")
    assert registrar.registered.wait(10)
    store = metadata.store()
    assert [read_entry(v) for v in store.prefix("trtllm/").values()] == [(GENERATION, f"127.0.0.1:{serving.port}")]
    store.delete(registrar.entry.key)  # a router that took it for dead
    until(lambda: store.prefix("trtllm/"), "its return")
    registrar.leave()
    assert store.prefix("trtllm/") == {}


# ---- the companion of an engine that cannot register ------------------------------------------------------------------------


def companion(cluster: Cluster, port: int, **environ: str) -> subprocess.Popen[bytes]:
    """A foreign engine under `register ... --`."""
    argv = [sys.executable, "-m", "disagg_launch.runtime", "register", "--disagg_cluster_uri", cluster.uri, "--cluster_name", cluster.name]
    argv += ["--server-role", "generation", "--host", "127.0.0.1", "--port", str(port), "--heartbeat_interval_sec", "0.3"]
    argv += ["--inactive_timeout_sec", "30", "--", sys.executable, str(pathlib.Path(worker.__file__)), str(port)]
    return subprocess.Popen(argv, env={**os.environ, **environ})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_companion_comes_and_goes_with_its_worker(storage: Storage, number: signal.Signals) -> None:
    cluster, port = quick(storage.uri), free_port()
    process = companion(cluster, port)
    try:
        until(lambda: entries(cluster) == [f"127.0.0.1:{port}"], "the entry")
        process.send_signal(number)
        assert process.wait() == -number  # the PID that was started is the worker itself
        until(lambda: not entries(cluster), "the end of its entry, long before its time-out")
    finally:
        process.kill()
        process.wait()


def test_only_the_first_rank_registers(storage: Storage) -> None:
    cluster, port = quick(storage.uri), free_port()
    process = companion(cluster, port, DISAGG_INSTANCE_RANK="1")
    try:
        registrar = register(Cluster(storage.uri, "other"), GENERATION, "127.0.0.1", port)
        assert registrar.registered.wait(10)
        registrar.leave()
        assert entries(cluster) == []
    finally:
        process.kill()
        process.wait()


def test_the_token_comes_from_a_file(serving: Worker, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("sesame\n")
    served = Storage(token="sesame")
    cluster, port = quick(served.uri), free_port()
    process = companion(cluster, port, DISAGG_CLUSTER_TOKEN_FILE=str(secret))
    try:
        until(lambda: served.memory.prefix(cluster.prefix), "the entry")
        stranger: Registrar = register(cluster, GENERATION, "127.0.0.1", serving.port)
        assert not stranger.registered.wait(1)
        stranger.leave()
        assert len(served.memory.prefix(cluster.prefix)) == 1
    finally:
        process.kill()
        process.wait()
        served.stop()
