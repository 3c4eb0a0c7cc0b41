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
from typing import TYPE_CHECKING

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

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.port, self._peer = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Back when it answers."""
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{self._peer}"
        argv = [ETCD, "--data-dir", self._folder / "data", "--unsafe-no-fsync", "--logger=zap", "--log-level=error"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        argv += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        with open(self._folder / "etcd.log", "ab") as log:
            self._process = subprocess.Popen([str(word) for word in argv], stdout=log, stderr=log)
        until(self._healthy, "a healthy etcd")

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
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
def storage() -> Iterator[Storage]:
    """Our storage behind HTTP."""
    served = Storage()
    yield served
    served.stop()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Deployment]]:
    """Starts one context and one generation server of the embedded engine; with True, they make themselves known."""
    made: list[Deployment] = []

    def begin(discovers: bool, **more: dict[str, object]) -> Deployment:
        from deployment_under_load import Deployment

        made.append(Deployment(tmp_path, discovers, **more))
        return made[-1]

    yield begin
    for one in made:
        one.close()
