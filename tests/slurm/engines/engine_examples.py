"""The examples as deployments of the strict stand-ins on the test cluster, and what they answer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from slurm_deployments import READY_S, Deployment

ROOT = Path(__file__).parents[3]
PATH = os.pathsep.join([str(ROOT / "tests/standins/bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
# mpi4py takes the MPICH wheel beside it unless it is told; srun --mpi=pmix wants Open MPI
ENV = {"PATH": PATH, "STANDIN_PYTHON": sys.executable, "MPI4PY_LIBMPI": "libmpi.so.40", "OMPI_MCA_mpi_yield_when_idle": "1"}
ENV["PYTHONFAULTHANDLER"] = "1"  # a crash inside an MPI library shows who called it


def example(name: str, **changes: Any) -> dict[str, Any]:
    """An example for the test cluster."""
    spec: dict[str, Any] = yaml.safe_load((ROOT / "examples" / name).read_text())
    spec.update(name=Path(name).stem, env=ENV, readiness={"limit_s": READY_S})
    spec["slurm"] = {**spec.get("slurm", {}), "site": "testcluster", "time": "20", "cpus_per_task": 1}
    spec.setdefault("router", {})["env"] = ENV
    for key, value in changes.items():
        spec[key] = {**spec.get(key, {}), **value}
    return spec


def answered(one: Deployment) -> str:
    """The deployment's text for one prompt."""
    body = json.dumps({"model": "any", "prompt": "hello there", "max_tokens": 8, "temperature": 0})
    done = one.cluster.login(
        "curl", "-sS", "--max-time", "30", "-H", "Content-Type: application/json", "-d", body, one.url + "/v1/completions"
    )
    text: str = json.loads(done.stdout)["choices"][0]["text"]
    return text


def hosts_of(one: Deployment, name: str) -> list[str]:
    """The host of each of an instance's tasks."""
    return [rank["host"] for rank in one.instance(name)["ranks"]]
