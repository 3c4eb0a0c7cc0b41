"""Verdicts and logs over several nodes of a real cluster, and what is said of a job that never starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from slurm_deployments import Deployment, topology
from slurm_hosts import Cluster, wait_for

ACTOR = ["python3", str(Path(__file__).parents[1] / "e2e/runtime/actor.py"), "{port}"]


def test_the_first_rank_to_fail_is_found_on_another_node_and_its_logs_are_followed(cluster: Cluster, tmp_path: Path) -> None:
    """gen0's rank 1 fails and hangs; both contexts, on other nodes, lose it, shout, and end before it does."""
    follows = ["await:failed", "shout:2000:ERROR [x.py] Connection reset by peer", "exit:1"]
    fails = ["1=say:RuntimeError: CUDA error: uncorrectable ECC error encountered", "1=touch:failed", "await:never"]
    spec = topology(context_servers={"command": [*ACTOR, *follows]}, generation_servers={"command": [*ACTOR, *fails]})
    one = Deployment(cluster, tmp_path, spec).submit()
    # from before its files are there until it has ended, on a host that is none of its nodes
    words = [cluster.enter, sys.executable, "-m", "disagg_launch", "logs", "-f", str(one.run), "gen0", "gateway"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        told = one.fails()
        said, _ = follower.communicate(timeout=60)
    assert (told["instance"], told["rank"], told["host"], told["how"]) == ("gen0", 1, one.hosts()[2], "had not ended yet")
    assert told["cause_name"] == "gpu-broken"
    assert {other["instance"] for other in told["followed"]} <= {"ctx0", "ctx1"}
    assert "uncorrectable ECC error" in said
    assert said.count("everything has ended") == 1
    late = one.command("wait", str(one.run), check=False)
    assert late.returncode == 6
    assert "first to fail: gen0 rank 1" in one.command("explain", one.job).stdout
    assert json.loads(one.command("explain", "--json", str(one.run)).stdout) == told
    assert "gen0 rank 1 on" in one.command("status", one.job, check=False).stdout
    assert one.command("logs", one.job, "gen0", "--level", "error", "--rank", "1").stdout.count("\n") == 1


def test_a_job_that_never_starts_is_explained(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology(slurm={"extra_args": ["--hold"]})).submit()
    told = json.loads(one.command("explain", "--json", one.job).stdout)
    assert (told["state"], told["cause_name"]) == ("pending", "slurm-held")
    said = one.command("explain", one.job).stdout
    assert "pending (JobHeldUser)" in said
    assert "what to do: release it" in said
    cluster.login("scancel", one.job)
    wait_for(lambda: "CANCELLED" in cluster.login("scontrol", "show", "job", one.job).stdout)
    assert "somebody cancelled the job" in one.command("explain", str(one.run)).stdout
