"""TensorRT-LLM, vLLM and SGLang over several nodes: an MPI world for each instance, one for all, and engines that meet by address.

The programs are the strict stand-ins, which check world, nodes, GPUs and flags as the real ones do.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from engine_examples import ENV, PATH, answered, example, hosts_of
from slurm_deployments import Deployment
from slurm_hosts import Cluster


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
        scratch = tempfile.mkdtemp(prefix="ray-")  # its sockets need a short path
        request.addfinalizer(lambda: shutil.rmtree(scratch, ignore_errors=True))
        more = {"STANDIN_RAY_PYTHON": str(folder / "python"), "RAY_TMPDIR": scratch}
        spec["env"] = {**ENV, "PATH": f"{tmp_path}/bin:{PATH}", **more}
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    assert answered(one)
    assert len(set(hosts_of(one, "ctx0"))) == 2
    assert "Running command on head node" in one.log("ctx0")
    one.cancel()
