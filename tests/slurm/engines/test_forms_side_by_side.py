"""The forms that fit on one node, each a job of its own, all at once on the cluster: they may not disturb each other either."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_examples import answered, example
from slurm_deployments import Deployment
from slurm_hosts import Cluster, wait_for

# nine deployments share the cores of one machine; a command of the tests has 120 s
LIMIT_S = 110
CONTEXT = {"num_instances": 1}


@pytest.fixture
def etcd(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """host:port of a real etcd on the login host."""
    address = f"http://{cluster.controller}:2379"
    argv = [cluster.enter, "etcd", "--data-dir", str(tmp_path / "etcd"), "--unsafe-no-fsync", "--advertise-client-urls", address]
    with (tmp_path / "etcd.log").open("wb") as log:
        child = subprocess.Popen([*argv, "--listen-client-urls", "http://0.0.0.0:2379"], stdout=log, stderr=log)
    try:
        wait_for(lambda: cluster.login("curl", "-sf", f"{address}/health", check=False).returncode == 0, 60, "for etcd")
        yield address.removeprefix("http://")
    finally:
        child.terminate()
        child.wait()


def specs(etcd: str) -> Iterator[dict[str, Any]]:
    """One deployment for each form."""
    host, port = etcd.split(":")
    yield example("seed/standard.yaml", context_servers=CONTEXT)
    yield example("seed/llmapi-launch.yaml", context_servers=CONTEXT)
    where = {"metadata_server": {"hostname": host, "port": int(port)}}
    few = {"context_servers": 1, "generation_servers": 1}
    yield example("seed/discovery-http.yaml", context_servers=CONTEXT, disagg_cluster={"minimal_instances": few})
    yield example(
        "seed/discovery-etcd.yaml", context_servers=CONTEXT, disagg_cluster={"cluster_uri": f"etcd://{etcd}", "minimal_instances": few}
    )
    yield example("seed/metadata-server.yaml", context_servers=CONTEXT, **where)
    yield example("seed/mixed-precision.yaml", context_servers=CONTEXT, **where)
    for engine in ("vllm", "sglang"):
        yield example(f"engines/{engine}-nixl.yaml", context_servers=CONTEXT, router={"name": "builtin"})
    yield example("seed/mpi-worker.yaml", context_servers=CONTEXT, slurm={"mode": "single-mpirun"}, cluster={"gpus_per_node": 2})


def test_forms_of_one_node(cluster: Cluster, tmp_path: Path, etcd: str) -> None:
    deployments = []
    for number, spec in enumerate(specs(etcd)):
        spec["port"] = 8000 + 200 * number
        spec["cluster"] = {**spec["cluster"], "base_port": spec["port"] + 1}
        spec["readiness"] = {"limit_s": LIMIT_S}
        spec.pop("hostname", None)  # left to Slurm
        deployments.append(Deployment(cluster, tmp_path, spec).submit())
    found = {}
    for one in deployments:
        found[one.run.name] = answered(one.ready(LIMIT_S))
        one.cancel()  # makes room for who waits for a node
    assert len(found) == 9
    assert len(set(found.values())) == 1, f"the same model and prompt in every form: {found}"
