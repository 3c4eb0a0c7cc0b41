"""Real models, fetched once with `model pull`, and real worker processes."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from disagg_launch.reference.serve import limit_threads

limit_threads()
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "unit" / "reference"))  # the in-process instance

from worker_process import Start, Worker, free_port  # noqa: E402

from disagg_launch.reference import models  # noqa: E402
from disagg_launch.reference.models import Model  # noqa: E402

MPIEXEC = pathlib.Path(sys.executable).parent / "mpiexec"


@pytest.fixture(scope="session")
def glass() -> Model:
    """glass-en."""
    models.pull("glass-en")
    return models.load("glass-en")


@pytest.fixture(scope="session")
def smollm() -> Model:
    """SmolLM2."""
    models.pull("smollm2-135m")
    return models.load("smollm2-135m")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start workers: start(model, *flags, ranks=N, program=[...]). They are ended after the module's tests."""
    workers: list[Worker] = []

    def begin(model: str, *flags: str, ranks: int = 1, program: tuple[str, ...] = ("-m", "disagg_launch.reference"), **env: str) -> Worker:
        port = free_port()
        log = tmp_path_factory.mktemp("worker") / "log"
        launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
        argv = [*launcher, sys.executable, *program, model, "--host", "127.0.0.1", "--port", str(port), *flags]
        with log.open("w") as output:
            process = subprocess.Popen(argv, stdout=output, stderr=output, text=True, env={**os.environ, **env})
        workers.append(Worker(process, f"http://127.0.0.1:{port}", log))
        return workers[-1]

    yield begin
    for worker in workers:
        if worker.process.poll() is None:
            worker.end()
