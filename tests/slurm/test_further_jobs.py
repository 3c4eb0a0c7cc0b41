"""A deployment on Slurm that grows and shrinks while it serves: on its own nodes, into a further job, and back."""

from __future__ import annotations

import json
from pathlib import Path

from certificates import certificate
from slurm_deployments import Deployment, engines
from slurm_hosts import Cluster, wait_for
from slurm_load import CLIENTS, PROMPTS, Load


def routed(one: Deployment) -> list[int]:
    """How many servers of each role the front door sends requests to."""
    told = json.loads(one.cluster.login("curl", "-sS", one.status()["router"]["inside"] + "/cluster_info").stdout)["current_workers"]
    return [sum(row["state"] == "ready" for row in told[key]) for key in ("context_servers", "generation_servers")]


def jobs(cluster: Cluster) -> list[list[str]]:
    """Name, state and number of nodes of each job there is, oldest first."""
    return [line.split() for line in cluster.login("squeue", "-h", "-S", "i", "-o", "%j %t %D").stdout.splitlines()]


def test_over_two_jobs_and_back_under_load(cluster: Cluster, tmp_path: Path) -> None:
    """Clients come by TLS; gateways, workers and the further job's gateway ask from other nodes, past it."""
    cert, key = certificate(tmp_path)
    tls = {"options": {"tls_cert_file": cert.name, "tls_key_file": key.name}}
    one = Deployment(cluster, tmp_path, engines(cluster={"spare_nodes": 1}, router=tls)).submit().ready()
    assert one.url.startswith("https://")
    alone = one.plan()
    with Load(cluster, one.url, cert) as load:
        wait_for(lambda: len(load.texts) == len(PROMPTS), why="for every prompt to be answered once")
        grown = one.command("scale", str(one.run), "ctx=3", "gen=+2").stdout
        # one finds room on the spare node, the others do not
        assert "0 ranks move, 2 stay, 0 go, 1 come" in grown
        assert "further/1: 1 ctx, 2 gen in a further job" in grown
        assert routed(one) == [3, 3]
        told = [json.loads(line) for line in (one.run / "further/1/state/events.jsonl").read_text().splitlines()]
        assert {event["generation"] for event in told if event["event"] == "proof" and event["ok"]} >= {"gen0", "gen1"}
        assert all(event["ok"] for event in told if event["event"] == "proof")
        assert jobs(cluster) == [["test", "R", "3"], ["test-1", "R", "3"]]
        assert one.plan()["ranks"][: len(alone["ranks"])] == alone["ranks"], "nobody moves"
        load.more(10 * CLIENTS)

        pid = one.instance("gen0")["ranks"][0]["pid"]
        one.command("restart", str(one.run), "gen0")
        assert one.instance("gen0")["ranks"][0]["pid"] != pid
        load.more(5 * CLIENTS)

        # part of a further job goes, and its node with it; then the rest, and the job
        one.command("scale", str(one.run), "gen=-1")
        assert jobs(cluster)[1] == ["test-1", "R", "2"]
        load.more(5 * CLIENTS)
        assert "completed" in one.command("scale", str(one.run), "ctx=1", "gen=1").stdout
        assert routed(one) == [1, 1]
        assert jobs(cluster) == [["test", "R", "3"]], "the spare node stays, the further job is over"
        load.more(5 * CLIENTS)
    assert load.failures == []
    # each prompt has the one text that the first servers alone gave it
    assert all(len(texts) == 1 for texts in load.texts.values()), load.texts
    one.cancel()


def test_nodes_that_nobody_needs_are_given_back(cluster: Cluster, tmp_path: Path) -> None:
    """Below what it began with: a running job shrinks, who was stopped there is not woken any more, and the deputy stays."""
    spec = engines(generation_servers={"num_instances": 3})
    del spec["disagg_cluster"]
    two = Deployment(cluster, tmp_path, {**spec, "name": "two"}).submit().ready()
    hosts = two.hosts()
    two.command("scale", str(two.run), "gen=1")
    assert jobs(cluster) == [["two", "R", "2"]]
    assert set(hosts[2:]) <= set(cluster.idle())
    assert "deputy" in cluster.login("squeue", "--steps", "-h", "-o", "%j").stdout
    full = two.command("scale", str(two.run), "gen=2", check=False)
    assert full.returncode == 3
    assert "disagg_cluster" in full.stderr, "without a way to join there is no further job"
    assert two.command("status", str(two.run)).returncode == 0
    two.cancel()


def test_a_further_job_lives_and_ends_with_its_run(cluster: Cluster, tmp_path: Path) -> None:
    """A worker that dies there is named; one that waits says so, and a smaller wish takes it away; `cancel` ends all of them."""
    one = Deployment(cluster, tmp_path, engines(slurm={"exclusive": True})).submit().ready()
    assert "further/1: 1 gen in a further job" in one.command("scale", str(one.run), "gen=2").stdout
    rank = json.loads((one.run / "further/1/state/status.json").read_text())["instances"][0]["ranks"][0]
    cluster.login("scancel", "--signal=KILL", f"{further(one)}.{step_of(cluster, further(one), 'gen0')}")
    wait_for(lambda: f"further/1 (job {further(one)}): failed: " in one.log("gateway"), why="for the loss to be told")
    told = next(line for line in one.log("gateway").splitlines() if "): failed: " in line)
    assert f"gen0 ended: rank 0 on {rank['host']}: " in told
    assert f"job {further(one)}: failed gen0 ended" in one.command("status", str(one.run)).stdout
    wait_for(lambda: jobs(cluster) == [["test", "R", "2"]], why="for its job to be over")
    wait_for(lambda: routed(one) == [1, 1], why="for the front door to let it go")

    holder = cluster.login("sbatch", "--parsable", "--exclusive", "-N3", "--wrap", "sleep 600", cwd=tmp_path).stdout.strip()
    late = one.command("scale", str(one.run), "gen=3", "--limit-s", "1", check=False)
    assert late.returncode == 5
    assert "pending" in late.stderr
    assert "further/2: job" in one.command("status", str(one.run)).stdout
    assert "cancelled" in one.command("scale", str(one.run), "gen=1").stdout
    assert not (one.run / "further/2").exists()
    cluster.login("scancel", holder)

    assert "further/2: 1 gen in a further job" in one.command("scale", str(one.run), "gen=2").stdout
    assert routed(one) == [1, 2]
    one.cancel()
    wait_for(lambda: jobs(cluster) == [], 30, "for the further job to end with its run")
    verdict = json.loads((one.run / "further/2/state/verdict.json").read_text())
    assert verdict["state"] == "stopped", verdict


def further(one: Deployment) -> str:
    """The id of the first further job."""
    return str(json.loads((one.run / "further/1/job.json").read_text())["job"])


def step_of(cluster: Cluster, job: str, name: str) -> str:
    """The number of a job's step."""
    lines = cluster.login("squeue", "--steps", "-h", "-j", job, "-o", "%i %j").stdout.splitlines()
    return next(line.split()[0].split(".")[1] for line in lines if line.split()[1] == name)
