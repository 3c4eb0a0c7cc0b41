"""The network of one node goes and comes back while a deployment serves: its worker leaves the front door and returns once."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_deployments import Deployment, engines
from slurm_hosts import Cluster, wait_for
from slurm_load import CLIENTS, Load


@contextlib.contextmanager
def in_memory(cluster: Cluster, folder: Path) -> Iterator[str]:
    """The front door's own storage."""
    yield "auto"


@contextlib.contextmanager
def in_etcd(cluster: Cluster, folder: Path) -> Iterator[str]:
    """A real etcd on the login host."""
    host = cluster.login("hostname", "--ip-address").stdout.split()[0]
    here = f"http://{host}:2379"
    places = [f"--data-dir={folder}/etcd", f"--listen-client-urls={here}", f"--advertise-client-urls={here}", "--unsafe-no-fsync"]
    with (folder / "etcd.log").open("w") as log:
        etcd = subprocess.Popen([cluster.enter, "etcd", *places], stdout=log, stderr=log)
    try:
        wait_for(lambda: cluster.login("curl", "-s", f"{here}/health", check=False).stdout, why="for etcd")
        yield f"etcd://{host}:2379"
    finally:
        etcd.terminate()
        etcd.wait()


@pytest.mark.parametrize("storage", [in_memory, in_etcd], ids=["http", "etcd"])
def test_a_node_is_cut_off_and_heals(
    storage: Callable[[Cluster, Path], contextlib.AbstractContextManager[str]], cluster: Cluster, tmp_path: Path
) -> None:
    with storage(cluster, tmp_path) as uri:
        # the gateway waits longer than the cut lasts: what is seen here is discovery, not a restart
        spec = engines(generation_servers={"num_instances": 2}, disagg_cluster={"cluster_uri": uri}, restart={"fence_s": 60})
        one = Deployment(cluster, tmp_path, spec).submit().ready()
        host, url = one.hosts()[2], one.instance("gen1")["url"].removeprefix("http://")
        pid = one.instance("gen1")["ranks"][0]["pid"]
        with Load(cluster, one.url) as load:
            wait_for(lambda: len(load.texts) == 5, why="for every prompt to be answered once")
            cluster.fault(host, "cut")
            wait_for(lambda: url not in ready(one), 30, "for the front door to let it go")
            load.more(5 * CLIENTS)
            cluster.fault(host, "heal")
            wait_for(lambda: url in ready(one), 30, "for it to come back")
            load.more(5 * CLIENTS)
        assert ready(one).count(url) == 1
        assert len(ready(one)) == 2, "nobody is there twice"
        # only what was under way there may have failed, with an error that says so; no text is wrong
        assert len(load.failures) <= CLIENTS, load.failures
        assert all(len(texts) == 1 for texts in load.texts.values()), load.texts
        assert one.instance("gen1")["ranks"][0]["pid"] == pid
        assert one.instance("gen1")["restarts"] == 0
        one.cancel()


def ready(one: Deployment) -> list[str]:
    """Addresses of the generation servers that requests are sent to."""
    told = json.loads(one.cluster.login("curl", "-sS", one.url + "/cluster_info").stdout)["current_workers"]
    return [f"{row['host']}:{row['port']}" for row in told["generation_servers"] if row["state"] == "ready"]
