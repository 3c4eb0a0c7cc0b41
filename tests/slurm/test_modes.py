"""Every way to run a deployment on Slurm, on a real one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_deployments import WORKER, Deployment, topology
from slurm_hosts import Cluster


def test_a_job_with_a_step_for_each_instance(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology()).submit().ready()
    hosts = one.hosts()
    assert {name: one.ask(name)["host"] for name in ("ctx0", "ctx1", "gen0", "router")} == {
        "ctx0": hosts[0],
        "ctx1": hosts[1],
        "gen0": hosts[2],
        "router": hosts[0],
    }
    for name in ("ctx0", "ctx1", "gen0"):
        # the second network: the one that the site profile names
        assert re.match(r"http://10\.232\.", one.instance(name)["url"])
    steps = cluster.login("squeue", "--steps", "-h", "-o", "%j").stdout.split()
    assert sorted(steps) == ["batch", "ctx0", "ctx1", "deputy", "gen0", "ports", "router"]
    assert one.command("status", one.job).stdout.startswith(f"job {one.job}: running")
    assert "rank 1 on" in one.command("logs", one.job, "ctx0").stdout
    shot = json.loads(one.command("top", one.job, "--once", "--json").stdout)
    assert shot["state"] == "ready" and shot["job"].startswith(f"job {one.job}: running")
    assert [node["host"] for node in shot["nodes"]] == hosts
    assert {rank["host"] for row in shot["instances"] for rank in row["ranks"]} == set(hosts)
    phases = [phase["name"] for phase in json.loads(one.command("trace", one.job, "--json").stdout)["phases"]]
    assert {"submitted", "allocated", "gateway begun", "steps started", "ranks up", "healthy", "router open"} <= set(phases)
    [target] = json.loads((one.run / "prometheus.json").read_text())
    page = cluster.login("curl", "-sS", f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}").stdout
    assert f'slurm_job="{one.job}"}} 1\n' in page and 'disagg_instances{role="context"' in page
    one.cancel()
    told = [json.loads(line) for line in (one.run / "state" / "events.jsonl").read_text().splitlines()]
    times = {event["event"]: event["at"] for event in told}
    assert times["submitted"] <= times["allocated"] <= times["begun"] + 1, "Slurm rounds to seconds"
    assert {event["host"] for event in told if event["event"] == "rank"} == set(hosts)
    for name in ("ctx0", "ctx1", "gen0"):
        assert one.log(name).count("leaving in order") == 2, "TERM has to reach the ranks, and to leave them time"


def test_a_reference_engine_over_six_nodes_answers_a_prompt(cluster: Cluster, tmp_path: Path) -> None:
    spec = topology(
        model="random:7",
        engine={"name": "reference", "python": sys.executable},
        cluster={"nodes": 6, "gpus_per_node": 1, "policy": "pack"},
        context_servers={"num_instances": 1, "tensor_parallel_size": 2},
        generation_servers={"num_instances": 1, "tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        slurm={"mpi": "pmi2"},
    )
    for section in ("context_servers", "generation_servers"):
        del spec[section]["command"]
    del spec["router"]
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    said = one.command("ask", "--run", str(one.run), "-e", "completions", "--max-tokens", "8", "Once upon a time")
    assert said.stdout.strip()
    # a request in flight finishes although the deployment is told to end
    address = [sys.executable, "-m", "disagg_launch", "ask", "--run", str(one.run), "-e", "completions", "--max-tokens", "100", "Once"]
    asking = subprocess.Popen([cluster.enter, *address], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    assert asking.stdout.read(1)
    held = [rank["host"] for name in ("ctx0", "gen0") for rank in one.instance(name)["ranks"]]
    assert held == one.hosts()
    one.cancel()
    assert asking.wait(timeout=60) == 0
    asking.stdout.close()


def test_workers_get_the_gpus_of_their_row(cluster: Cluster, tmp_path: Path) -> None:
    """Two instances on one node, each with two of its four GPUs, and a router with none."""
    spec = topology(
        engine={"name": "vllm", "program": str(WORKER)},
        cluster={"nodes": 1, "gpus_per_node": 4, "policy": "pack"},
        context_servers={"num_instances": 1, "tensor_parallel_size": 2},
    )
    for section in ("context_servers", "generation_servers"):
        del spec[section]["command"]
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    assert [one.ask(name)["gpus"] for name in ("ctx0", "gen0", "router")] == ["0,1", "2,3", "none"]
    one.cancel()


@pytest.mark.parametrize("mode", ["single-srun", "single-mpirun"])
def test_one_world_over_the_whole_allocation(mode: str, cluster: Cluster, tmp_path: Path) -> None:
    spec = topology(slurm={"mode": mode}, mpi={"flavor": "openmpi"})
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    ranks = [rank for name in ("ctx0", "ctx1", "gen0") for rank in one.instance(name)["ranks"]]
    assert [rank["host"] for rank in ranks] == [host for host in one.hosts() for _ in range(2)]
    assert [one.ask(name)["rank"] for name in ("ctx0", "ctx1", "gen0")] == ["0", "2", "4"]
    one.cancel()


def test_inside_an_allocation_that_is_held_already(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology())
    up = [sys.executable, "-m", "disagg_launch", "up", "--backend", "slurm", "--run", str(one.run), str(one.spec)]
    inside = [*up, "--", "bash", "-c", "curl -sS $DISAGG_URL/who"]
    done = cluster.login("salloc", "-N3", "--ntasks-per-node=2", *inside, cwd=tmp_path)
    assert json.loads(done.stdout)["host"] == one.hosts()[0]
    outside = one.command("up", "--backend", "slurm", "--run", str(tmp_path / "other"), str(one.spec), check=False)
    assert outside.returncode == 4
    assert "salloc" in outside.stderr


def test_a_step_typed_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    spec = topology(context_servers={"command": ["hostname"]}, generation_servers={"command": ["hostname"]})
    one = Deployment(cluster, tmp_path, spec)
    one.command("render", "--backend", "slurm", "--run", str(one.run), str(one.spec))
    done = cluster.login("salloc", "-N3", "--ntasks-per-node=2", "bash", "-c", f"scontrol show hostnames; {one.run}/steps/ctx1.sh")
    *hosts, first, second = done.stdout.split("\n")[:-1]
    assert sorted([first, second]) == [f"0: {hosts[1]}", f"1: {hosts[1]}"]


def test_a_heterogeneous_job(cluster: Cluster, tmp_path: Path) -> None:
    spec = topology(
        cluster={"nodes": 3, "policy": "separate_roles"},
        slurm={"het": {"context": {"partition": "big"}, "generation": {"partition": "small"}}},
    )
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    held = {name: one.ask(name)["host"] for name in ("ctx0", "ctx1", "gen0")}
    kinds = {name: cluster.login("sinfo", "-h", "-N", "-p", "batch", "-n", host, "-o", "%f").stdout.strip() for name, host in held.items()}
    assert kinds == {"ctx0": "big", "ctx1": "big", "gen0": "small"}
    one.cancel()
    assert "leaving in order" in one.log("gen0"), "the second part's steps end in order too"


def test_while_the_job_waits(cluster: Cluster, tmp_path: Path) -> None:
    holder = cluster.login(
        "sbatch", "--parsable", "--exclusive", f"-N{len(cluster.nodes)}", "--wrap", "sleep 600", cwd=tmp_path
    ).stdout.strip()
    one = Deployment(cluster, tmp_path, topology()).submit()
    status = one.command("status", one.job, check=False)
    assert status.returncode == 5
    assert re.match(rf"job {one.job}: pending \((Resources|Priority|None|no reason given)\), expected start ", status.stdout)
    assert f"pending (job {one.job}: pending" in one.command("top", one.job, "--once").stdout.replace(", no url yet", "")
    late = one.command("wait", one.job, "--limit-s", "1", check=False)
    assert late.returncode == 5
    assert "cancelled" in one.command("cancel", one.job).stdout
    cluster.login("scancel", holder)


def test_nothing_is_sent_when_nothing_is_to_be(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology())
    dry = one.command("submit", "--dry-run", str(one.spec)).stdout
    assert "==> job.sbatch <==" in dry
    assert "exec srun" in dry
    assert one.command("submit", "--test-only", str(one.spec)).stdout.startswith("test: Job ")
    much = Deployment(cluster, tmp_path, topology(name="much", slurm={"constraint": "nothing-has-this"}))
    refused = much.command("submit", "--test-only", str(much.spec), check=False)
    assert refused.returncode == 4
    assert not cluster.login("squeue", "-h").stdout
    assert not (tmp_path / "runs").exists()


def test_a_profile_made_by_asking_this_cluster_works(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology(slurm={"site": str(tmp_path / "asked.yaml")}))
    one.command("site", "probe", "--out", str(tmp_path / "asked.yaml"))
    assert "partition: batch" in (tmp_path / "asked.yaml").read_text()
    one.submit().ready()
    assert one.instance("ctx0")["url"].startswith("http://")
    one.cancel()


def test_an_array_of_two_topologies_on_the_same_nodes(cluster: Cluster, tmp_path: Path) -> None:
    nodes = {"nodelist": ",".join(cluster.idle()[:3])}
    specs = [topology(name=f"a{n}", slurm=nodes, context_servers={"num_instances": n + 1}) for n in range(2)]
    insist = [Deployment(cluster, tmp_path, {**spec, "port": 8100}) for spec in specs]
    alike = insist[0].command("submit", *(str(one.spec) for one in insist), "--run", str(tmp_path / "array"), check=False)
    assert (alike.returncode, "port 8100" in alike.stderr) == (2, True)
    ones = [Deployment(cluster, tmp_path, spec) for spec in specs]
    folder = tmp_path / "array"
    job = ones[0].command("submit", *(str(one.spec) for one in ones), "--run", str(folder)).stdout.strip()
    for number, one in enumerate(ones):
        one.run, one.job = folder / str(number), f"{job}_{number}"
        one.ready()
        assert one.command("status", one.job).stdout.startswith(f"job {one.job}: running")
    assert [len(one.status()["instances"]) for one in ones] == [2, 3]
    assert ones[0].hosts()[:3] == ones[1].hosts()
    # without ports in the files each has its own, and keeps them while the other starts again
    assert {one.url.rpartition(":")[2] for one in ones} == {"8000", "8512"}
    urls = [one["url"] for deployment in ones for one in deployment.status()["instances"]]
    assert len(set(urls)) == 5
    assert {one.ask(name)["instance"] for one in ones for name in ("ctx0", "gen0")} == {"ctx0", "gen0"}
    for one in ones:
        assert one.job in one.cancel()
