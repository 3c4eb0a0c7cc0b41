"""TensorRT-LLM, vLLM and SGLang over several nodes: an MPI world for each instance, one for all, and engines that meet by address.

The programs are the strict stand-ins, which check world, nodes, GPUs and flags as the real ones do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from slurm_deployments import READY_S, Deployment
from slurm_hosts import Cluster

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


def test_trtllm_multi_node(cluster: Cluster, tmp_path: Path) -> None:
    """The guide's multi-node execution: context TP 8 on two 4-GPU nodes, generation TP 4 on a third, `--mpi=pmix`."""
    one = Deployment(cluster, tmp_path, example("seed/multi-node.yaml")).submit().ready()
    assert answered(one)
    first, second, third = one.hosts()
    assert hosts_of(one, "ctx0") == [first] * 4 + [second] * 4
    assert hosts_of(one, "gen0") == [third] * 4
    assert sum("run mgmn worker node" in line for line in one.log("ctx0").splitlines()) == 7
    one.cancel()


def test_trtllm_mpi_worker_in_one_world(cluster: Cluster, tmp_path: Path) -> None:
    spec = example("seed/mpi-worker.yaml", slurm={"mode": "single-srun", "mpi": "pmix"}, cluster={"nodes": 3, "gpus_per_node": 1})
    spec["hostname"] = "0.0.0.0"
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    assert answered(one)
    assert [hosts_of(one, name) for name in ("ctx0", "ctx1", "gen0")] == [[host] for host in one.hosts()]
    one.cancel()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_nodes_of_one_instance_meet(engine: str, cluster: Cluster, tmp_path: Path, routers: Path) -> None:
    command = {"vllm": [str(routers / "vllm-router")], "sglang": [str(routers / "python"), "-m", "sglang_router.launch_router"]}
    spec = example(f"engines/{engine}-nodes.yaml", router={"name": engine, "command": command[engine]})
    for key in ("dp_size", "enable_dp_attention"):
        spec["generation_servers"].pop(key, None)
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    assert answered(one)
    assert [len(set(hosts_of(one, name))) for name in ("ctx0", "gen0")] == [2, 2]
    one.cancel()


@pytest.mark.parametrize("kind", ["standin", "real"])
def test_vllm_through_ray(kind: str, cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The nodes of the context instance run the same `ray symmetric-run`; the first one runs vLLM when all are there."""
    spec = example("engines/vllm-ray.yaml")
    if kind == "real":
        folder = request.getfixturevalue("ray")
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/ray").symlink_to(folder / "ray")
        spec["env"] = {**ENV, "PATH": f"{tmp_path}/bin:{PATH}", "STANDIN_RAY_PYTHON": str(folder / "python")}
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    assert answered(one)
    assert len(set(hosts_of(one, "ctx0"))) == 2
    assert "Running command on head node" in one.log("ctx0")
    one.cancel()
