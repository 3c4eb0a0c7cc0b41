"""Deployments of the strict stand-ins, started as a user starts them: `disagg-launch up SPEC -- COMMAND`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from engine_ask import texts
from engine_deployments import HERE, ROOT, Ended, answers, free_ports, until

# What surrounds a user's shell inside an allocation of a badly set up cluster; none of it may reach a worker that it would hurt.
HOSTILE = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "64", "PMIX_RANK": "3", "UCX_TLS": "tcp"}


@pytest.fixture
def up(tmp_path: Path) -> Callable[..., Ended]:
    """`up(spec text, *options, ask=command, **environment)` runs a deployment on free ports, asks it, and stops it."""

    def run(text: str, *options: str, ask: Sequence[str] = (str(HERE / "engine_ask.py"),), **environ: str) -> Ended:
        first = free_ports()
        moved = re.sub(r"(?m)^port: .*$", f"port: {first}", text)
        moved = re.sub(r"(?m)^cluster:$", f"cluster:\n  base_port: {first + 1}", moved)
        spec, folder, trace = tmp_path / "spec.yaml", tmp_path / "run", tmp_path / "trace"
        spec.write_text(moved)
        trace.mkdir(exist_ok=True)
        path = os.pathsep.join([str(ROOT / "tests/standins/bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "STANDIN_PYTHON": sys.executable, "STANDIN_TRACE": str(trace), "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
        command = [sys.executable, "-m", "disagg_launch", "up", str(spec), "--run", str(folder), *options]
        command += ["--", sys.executable, *ask]
        done = subprocess.run(
            command, env={**os.environ, **HOSTILE, **own, **environ}, capture_output=True, text=True, timeout=120, check=False
        )
        started = tuple(json.loads(one.read_text()) for one in trace.iterdir())
        return Ended(done.returncode, done.stdout, done.stderr, folder, started)

    return run


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The text of one monolithic process of the embedded engine, which every deployment has to give."""
    port = free_ports(1)
    log = tmp_path_factory.mktemp("monolith") / "log"
    argv = [sys.executable, "-m", "disagg_launch.reference", "random:7", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        child = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"))
        whole, streamed = texts(f"http://127.0.0.1:{port}")
        assert whole == streamed
        yield whole
    finally:
        child.terminate()
        child.wait()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real etcd."""
    if not shutil.which("etcd"):
        pytest.skip("etcd is not installed")
    port, peer = free_ports(1), free_ports(1)
    folder = tmp_path_factory.mktemp("etcd")
    client, other = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    argv = [
        "etcd",
        "--data-dir",
        str(folder / "data"),
        "--unsafe-no-fsync",
        "--listen-client-urls",
        client,
        "--advertise-client-urls",
        client,
    ]
    argv += ["--listen-peer-urls", other, "--initial-advertise-peer-urls", other, "--initial-cluster", f"default={other}"]
    with (folder / "log").open("wb") as out:
        child = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until(lambda: answers(f"{client}/health"))
        yield port
    finally:
        child.kill()
        child.wait()
