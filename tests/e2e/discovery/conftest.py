"""Real servers for these tests: an etcd from the system, and our storage behind uvicorn. All on loopback, on ports of their own."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from disagg_launch.discovery.memory import Memory
from disagg_launch.discovery.served import Served

if TYPE_CHECKING:
    from deployment_under_load import Deployment

ETCD = shutil.which("etcd")
PATIENCE_S = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def until(true: Callable[[], object], what: str) -> None:
    """Come back when `true()` is; the test fails if that takes unreasonably long."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


class EtcdServer:
    """One etcd on its own data folder; `kill` and `start` it again on the same ports."""

    def __init__(self, folder: pathlib.Path, name: str = "default") -> None:
        self._folder, self.name = folder, name
        self.port, peer = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.peer = f"http://127.0.0.1:{peer}"
        self.members = [self]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Back when it answers."""
        self.begin()
        until(self.healthy, "a healthy etcd")

    def begin(self) -> None:
        """Start it; it answers once most members of its cluster are there."""
        client = f"http://{self.endpoint}"
        argv = [ETCD, "--name", self.name, "--data-dir", self._folder / self.name, "--unsafe-no-fsync", "--logger=zap", "--log-level=error"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", self.peer]
        argv += ["--initial-advertise-peer-urls", self.peer]
        argv += ["--initial-cluster", ",".join(f"{one.name}={one.peer}" for one in self.members)]
        with open(self._folder / f"{self.name}.log", "ab") as log:
            self._process = subprocess.Popen([str(word) for word in argv], stdout=log, stderr=log)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def healthy(self) -> bool:
        """Whether it is a member of a cluster that works."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{self.endpoint}/health", timeout=1) as answer:
            return b"true" in answer.read()
        return False


class Storage:
    """Our in-memory storage, served; `memory` is the store itself."""

    def __init__(self, token: str = "", port: int = 0) -> None:
        self.memory = Memory()
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(Served(self.memory, token), port=self.port, lifespan="off", log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started, "our storage")

    def stop(self) -> None:
        """Close the port."""
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def etcd(tmp_path: pathlib.Path) -> Iterator[EtcdServer]:
    """A running etcd."""
    if ETCD is None:
        pytest.skip("there is no etcd here: apt-get install etcd-server")
    server = EtcdServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def etcds(tmp_path: pathlib.Path) -> Iterator[list[EtcdServer]]:
    """Three of one cluster, which works as long as two do."""
    if ETCD is None:
        pytest.skip("there is no etcd here: apt-get install etcd-server")
    servers = [EtcdServer(tmp_path, name) for name in ("one", "two", "three")]
    try:
        for server in servers:
            server.members = servers
            server.begin()
        until(lambda: all(server.healthy() for server in servers), "a cluster of etcds")
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def storage() -> Iterator[Storage]:
    """Our storage behind HTTP."""
    served = Storage()
    yield served
    served.stop()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Deployment]]:
    """Starts one context and one generation server of the embedded engine; with True, they make themselves known."""
    made: list[Deployment] = []

    def begin(discovers: bool, **more: Any) -> Deployment:
        from deployment_under_load import Deployment

        made.append(Deployment(tmp_path, discovers, **more))
        return made[-1]

    yield begin
    for one in made:
        one.close()
