"""What goes wrong on a cluster, done to a real one: what the user is told, how fast, and what heals.

Every verdict names the instance, its host and rank, and how it ended; afterwards no process is left on any node (`cluster` checks it).
The seconds that README's table shows are printed with `pytest -s`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from last_requests import PROMPT
from slurm_deployments import SERVE, Deployment, engines, topology
from slurm_hosts import Cluster, wait_for

from disagg_launch.rehearse.tokens import expected

# the rehearsal's workers: a token is some sleep and no work
TOKEN_S, DRAIN_S = 0.25, 20
SHORT, FITS, TOO_LONG = (4, -4), (30, -30), (2000, -2000)
LENGTHS = (*SHORT, *FITS, *TOO_LONG)
RESTART = {"on_failure": "restart", "backoff_s": 0.2, "grace_s": 2, "fence_s": 4}


def tell(fault: str, **seconds: float) -> None:
    """One row of the table."""
    print(f"\nFAULT {fault}: " + ", ".join(f"{what} {s:.1f} s" for what, s in seconds.items()))


def since(began: float) -> float:
    return time.monotonic() - began


def context(command: list[str], **more: Any) -> dict[str, Any]:
    """A topology whose context instances run another command."""
    return topology(context_servers={"num_instances": 1, "command": command}, **more)


class Limited(Deployment):
    """A deployment whose time runs out while clients ask it."""

    clients: subprocess.Popen[str]


@pytest.fixture(scope="module", autouse=True)
def limited(_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    """On a cluster of its own: limits take minutes, and the other tests need not wait for this one."""
    own, folder = Cluster("limit" + _cluster.name[-1]), tmp_path_factory.mktemp("limited")
    own.up(2)
    calm = {"load_s": 0, "faults": []}
    (folder / "script.json").write_text(json.dumps({"token_s": TOKEN_S, "instances": {"ctx0": calm, "gen0": calm}}))
    worker = [sys.executable, "-m", "disagg_launch.rehearse.worker", str(folder / "script.json")]
    serve = {"num_instances": 1, "command": [*worker, "--host", "{host}", "--port", "{port}"]}
    spec = engines(context_servers=serve, generation_servers=serve, slurm={"time": "3", "signal_s": 60, "drain_s": DRAIN_S})
    spec.update(engine={"name": "command", "python": sys.executable}, model="rehearsal", restart={"grace_s": 5})
    del spec["disagg_cluster"]
    one = Limited(own, folder, spec)
    one.submit().ready()
    argv = [own.enter, sys.executable, str(Path(__file__).with_name("last_requests.py")), one.url, *map(str, LENGTHS)]
    with (folder / "asked").open("w") as asked:
        one.clients = subprocess.Popen(argv, stdout=asked, text=True)
    yield one
    one.clients.kill()
    one.clients.wait()
    own.tool("down")


# ---- before it is ready ---------------------------------------------------------------------------------------------------


def test_a_rank_that_ends_while_starting_is_named(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, context([*SERVE, "--second-ends"])).submit()
    verdict = one.fails()
    tell("a rank ends while starting", verdict=one.stamp("gateway", "failed: ") - one.stamp("ctx0", "the model is broken"))
    assert (verdict["instance"], verdict["exit_code"]) == ("ctx0", 6)
    assert f"rank 1 on {one.hosts()[0]}: exit code 3" in verdict["reason"]
    assert any("the model is broken" in line for line in verdict["last_lines"])
    assert (verdict["rank"], verdict["host"], verdict["how"]) == (1, one.hosts()[0], "exit code 3")
    wait_for(lambda: one.cluster.login("squeue", "-h").stdout == "", 30, "for the nodes to be given back")
    assert "FAILED" in cluster.login("scontrol", "show", "job", one.job).stdout


def test_a_rank_that_never_reports_is_named(cluster: Cluster, tmp_path: Path) -> None:
    """Its program cannot even start: a prolog holds rank 1 for ever."""
    hold = tmp_path / "hold.sh"
    hold.write_text('#!/bin/bash\nif [ "$SLURM_PROCID" = 1 ]; then sleep 300; fi\n')
    hold.chmod(0o755)
    spec = context(SERVE, readiness={"limit_s": 10, "stall_s": 20}, restart={"grace_s": 2}, slurm={"srun_args": [f"--task-prolog={hold}"]})
    one = Deployment(cluster, tmp_path, spec).submit()
    verdict = one.fails()
    assert verdict["exit_code"] == 5
    assert "no word of rank 1;" in verdict["reason"]


def test_a_port_that_a_stranger_has_is_named_or_left_to_him(cluster: Cluster, tmp_path: Path) -> None:
    """Named where the topology file insists on it; without one, the run takes other ports."""
    listen = "import socket, time; s = socket.create_server(('', 8001)); time.sleep(600)"
    node = cluster.idle()[0]
    stranger = cluster.login("sbatch", "--parsable", "-w", node, "--wrap", f'python3 -c "{listen}"', cwd=tmp_path).stdout.strip()
    wait_for(lambda: "8001" in cluster.on(node, "ss", "-ltn").stdout)
    insists = context(SERVE, slurm={"nodelist": node}, cluster={"base_port": 8001})
    verdict = Deployment(cluster, tmp_path, insists).submit().fails()
    assert verdict["instance"] == "ctx0"
    assert "8001" in verdict["reason"], verdict
    assert "port" in verdict["reason"]
    assert verdict["cause_name"] == "port-in-use"
    other = Deployment(cluster, tmp_path, context(SERVE, name="other", slurm={"nodelist": node})).submit().ready()
    assert other.url.endswith(":8512")
    assert other.instance("ctx0")["url"].endswith(":8513")
    assert "port 8001 is taken" in other.log("gateway")
    other.cancel()
    cluster.login("scancel", stranger)


def test_worlds_of_size_one_are_noticed(cluster: Cluster, tmp_path: Path) -> None:
    """--mpi=none gives every rank a world of its own, and MPI is content with that."""
    import sys

    spec = topology(
        model="random:7",
        engine={"name": "reference", "python": sys.executable},
        slurm={"mpi": "none"},
        cluster={"nodes": 2, "gpus_per_node": 1},
    )
    spec["context_servers"] = {"num_instances": 1, "tensor_parallel_size": 1}
    spec["generation_servers"] = {"num_instances": 1, "tensor_parallel_size": 2}
    spec["cluster"] = {"nodes": 3, "gpus_per_node": 1}
    verdict = Deployment(cluster, tmp_path, spec).submit().fails()
    assert verdict["instance"] == "gen0"
    assert "size 1" in verdict["reason"] + " ".join(verdict["last_lines"]), verdict
    assert verdict["cause_name"] == "wrong-world-size"


# ---- after it was ready ---------------------------------------------------------------------------------------------------


def test_with_stop_the_nodes_are_given_back_at_once(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology()).submit().ready()
    began = time.monotonic()
    one.ask("gen0", "/exit?code=7", check=False)
    verdict = one.fails()
    told = since(began)
    assert verdict["instance"] == "gen0"
    assert f"rank 0 on {one.hosts()[2]}: exit code 7" in verdict["reason"]
    wait_for(lambda: cluster.login("squeue", "-h").stdout == "", 30)
    tell("worker ends after ready, on_failure: stop", verdict=told, nodes_given_back=since(began))


def test_with_restart_instances_come_back_alone(cluster: Cluster, tmp_path: Path) -> None:
    """One deployment, hurt again and again: a worker ends, one is killed, slurmd is killed and returns at once; all with a node silent."""
    one = Deployment(cluster, tmp_path, topology(restart=RESTART)).submit().ready()
    others = {name: one.ask(name)["pid"] for name in ("gen0", "router")}

    silent, silent_at = one.hosts()[1], time.time()
    stopped = _with(cluster, silent, "DISAGG_LIFE=")
    cluster.on(silent, "kill", "-STOP", *stopped)

    began = time.monotonic()
    one.ask("ctx0", "/exit?code=7", check=False)
    wait_for(lambda: one.instance("ctx0")["restarts"] == 1)
    told = since(began)
    one.comes_back("ctx0")
    tell("worker ends after ready, on_failure: restart", verdict=told, healed=since(began))

    rank = one.instance("ctx0")["ranks"][1]
    pid = _pid_on(cluster, rank["host"], "DISAGG_INSTANCE=ctx0", "DISAGG_INSTANCE_RANK=1")
    began = time.monotonic()
    cluster.on(rank["host"], "kill", "-9", pid)
    wait_for(lambda: one.instance("ctx0")["restarts"] == 2)
    told = since(began)
    wait_for(lambda: one.instance("ctx0")["stage"] == "routed", why="for ctx0 to come back again")
    tell("second rank killed, on_failure: restart", verdict=told, healed=since(began))
    assert f"rank 1 on {rank['host']}: Killed" in one.log("gateway")

    host = one.hosts()[2]
    cluster.fault(host, "kill-slurmd")
    cluster.fault(host, "start-slurmd")
    wait_for(lambda: "ctx1 is missing no more" in one.log("gateway"), why="for the silent node to be tried again")
    cluster.on(silent, "kill", "-CONT", *stopped, check=False)  # it notices that nobody waits for it
    said = f"DEGRADED: ctx1 cannot be started now: {silent} is lost and no spare node is left"
    back_s, told_s = (one.stamp("gateway", text) - silent_at for text in ("ctx1 is missing no more", said))
    tell("node silent for a while, no spare node", verdict=told_s, healed=back_s)
    assert one.ask("ctx1")["host"] == silent
    assert {name: one.ask(name)["pid"] for name in others} == others, "nobody else may have been touched"

    for rank in one.instance("gen0")["ranks"]:
        pid = _pid_on(cluster, rank["host"], "DISAGG_INSTANCE=gen0", f"DISAGG_RANK={rank['rank']}")
        cluster.on(rank["host"], "kill", "-STOP", pid)
    assert one.cancel() == f"job {one.job}: completed\n"
    assert one.log("gen0").count("leaving in order") == 2, "who is stopped is woken, to end in order too"


def test_a_lost_node_is_replaced_by_a_spare_one_or_missed(cluster: Cluster, tmp_path: Path) -> None:
    """Three nodes and two spares: two fail at once, then one loses its slurmd: the others serve on until a role has nobody."""
    spec = topology(
        restart=RESTART,
        cluster={"nodes": 5, "spare_nodes": 2},
        context_servers={"num_instances": 2},
        generation_servers={"num_instances": 1},
    )
    one = Deployment(cluster, tmp_path, spec).submit().ready()
    first = one.hosts()
    own = first[0]
    # the gateway and ctx0 are on the first host; ctx1 and gen0 on the others
    off_at = time.time()
    cluster.fault(first[1], "poweroff")
    cut_at = time.time()
    cluster.fault(first[2], "cut")
    told, healed = _moves(one, "ctx1", 1, first[1], off_at)
    tell("node powered off, spare node", verdict=told, healed=healed)
    told, healed = _moves(one, "gen0", 2, first[2], cut_at)
    tell("node cut off the network, spare node", verdict=told, healed=healed)

    victim = one.hosts()[1]
    began = time.monotonic()
    cluster.fault(victim, "kill-slurmd")
    wait_for(lambda: not _with(cluster, first[2], "DISAGG_INSTANCE=gen0"), 15, "for the workers behind the cut to fence themselves")
    wait_for(lambda: "ctx1" in one.status()["degraded"], why="for ctx1 to wait for a node")
    tell("slurmd killed for good, no spare node", verdict=since(began))
    assert one.status()["state"] == "ready"
    said = one.command("status", str(one.run)).stdout
    assert f"DEGRADED: ctx1 cannot be started now: {victim} is lost and no spare node is left" in said
    assert "likely cause: a node failed" in one.command("explain", str(one.run)).stdout
    assert "disagg_degraded 1" in cluster.login("curl", "-sS", one.status()["metrics"]["gateway"]).stdout
    wait_for(lambda: not _with(cluster, victim, "DISAGG_INSTANCE=ctx1"), 15, "for the workers without slurmd to end")
    # when its slurmd returns, nobody is there who could answer beside the one that took its place
    cluster.fault(victim, "start-slurmd")
    wait_for(lambda: not _unusable(cluster, victim), 30, "for Slurm to take the node in again")
    assert not _with(cluster, victim, "DISAGG_LIFE=", "DISAGG_INSTANCE=ctx1")

    assert one.hosts()[0] == own
    assert one.ask("ctx0")["host"] == own
    assert one.instance("ctx0")["restarts"] == 0
    last = one.hosts()[2]
    assert one.ask("gen0")["host"] == last
    assert "ctx1" in one.status()["degraded"], "Slurm has taken its node out of the job, so there it cannot be started again"

    began = time.monotonic()
    silent = _with(cluster, last, "DISAGG_LIFE=")
    cluster.on(last, "kill", "-STOP", *silent)
    verdict = one.fails()
    cluster.on(last, "kill", "-CONT", *silent, check=False)
    tell("a role's last node lost", verdict=since(began))
    assert (verdict["instance"], verdict["exit_code"], verdict["cause_name"]) == ("gen0", 6, "node-failure")
    assert f"{last} is lost and no spare node is left" in verdict["reason"]
    assert "no generation instance is left; ctx1 was missing" in verdict["reason"]


def test_the_gateways_node_dies(cluster: Cluster, tmp_path: Path) -> None:
    """Workers on other nodes end themselves when nobody watches them any more; the job is over."""
    one = Deployment(cluster, tmp_path, topology(restart=RESTART, slurm={"requeue": False})).submit().ready()
    hosts = one.hosts()[:3]
    began = time.monotonic()
    cluster.fault(hosts[0], "poweroff")
    wait_for(lambda: not any(_with(cluster, host, "DISAGG_LIFE=") for host in hosts[1:]), 40, "for the workers to fence themselves")
    told = since(began)
    wait_for(lambda: "CANCELLED" in cluster.login("scontrol", "show", "job", one.job).stdout, 60, "for the deputy to end the job")
    tell("the gateway's node dies", workers_fenced=told, job_over=since(began))
    late = one.command("wait", str(one.run), check=False)
    assert late.returncode == 6
    assert f"node {hosts[0]}, which the gateway was on, is down" in late.stderr
    assert "likely cause: a node failed" in one.command("explain", str(one.run)).stdout


# ---- Slurm ends it --------------------------------------------------------------------------------------------------------


def test_requeue_starts_it_again(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology(slurm={"requeue": True})).submit().ready()
    before = one.ask("ctx0")["pid"]
    began = time.monotonic()
    cluster.login("scontrol", "requeue", one.job)
    wait_for(lambda: "Restarts=1" in cluster.login("scontrol", "show", "job", one.job).stdout)
    wait_for(
        lambda: one.status()["state"] == "ready" and one.ask("ctx0", check=False).get("pid", before) != before, 90, "for it to run again"
    )
    tell("requeued", healed=since(began))
    assert "deputy" in cluster.login("squeue", "--steps", "-h", f"--jobs={one.job}", "-o", "%j").stdout.split(), "it is watched again, too"
    one.cancel()


def test_scancel_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    one = Deployment(cluster, tmp_path, topology()).submit().ready()
    cluster.login("scancel", one.job)
    wait_for(lambda: cluster.login("squeue", "-h").stdout == "", 30)
    assert "leaving in order" in one.log("ctx0")
    assert "CANCELLED" in cluster.login("scontrol", "show", "job", one.job).stdout


def test_the_time_limit_ends_it_in_order(limited: Limited) -> None:
    """Slurm says so some time ahead; whoever is being answered then is answered to the end or told, and nothing is ended by force."""
    wait_for(lambda: limited.cluster.login("squeue", "-h").stdout == "", 200, "for the time limit")
    limited.clients.wait(60)  # nobody hangs
    verdict = json.loads((limited.run / "state/verdict.json").read_text())
    assert "SIGTERM" in verdict["reason"]
    assert verdict["cause_name"] == "time-limit"
    assert "before the job's time limit" in limited.command("status", limited.job, check=False).stdout
    assert "TIMEOUT" not in limited.cluster.login("scontrol", "show", "job", limited.job).stdout
    wait_for(lambda: not limited.cluster.left_behind(), 10, "for everything on the nodes to be gone")

    asked = [json.loads(line) for line in (limited.folder / "asked").read_text().splitlines()]
    told_at, over_at = (limited.stamp("gateway", words) for words in ("SIGTERM received", "everything has ended"))
    assert over_at - told_at < 60, "the whole end is bounded by signal_s"
    assert {one["how"] for one in asked} == {"whole", "error", "told", "refused"}, [one for one in asked if one["how"] in ("cut", "reset")]
    assert all(one["text"] == expected(PROMPT, abs(one["tokens"])) for one in asked if one["how"] == "whole"), "no answer lacks anything"
    under_way = {one["tokens"]: one["how"] for one in asked if one["began"] < told_at < one["ended"]}
    assert {under_way[tokens] for tokens in FITS} == {"whole"}, "what the drain is long enough for is finished"
    assert [under_way[tokens] for tokens in TOO_LONG] == ["error", "told"], "the rest hears that it is over"
    closed_at = min(one["began"] for one in asked if one["how"] == "refused")
    assert {one["how"] for one in asked if one["began"] > closed_at} == {"refused"}, "the door is closed once"


def _moves(one: Deployment, name: str, node: int, lost: str, began_at: float) -> tuple[float, float]:
    """Seconds until the loss was noticed, and until the instance is healthy on another host."""
    wait_for(lambda: f"{name} is back" in one.log("gateway"), 60, f"for {name} to come back")
    wait_for(lambda: one.instance(name)["restarts"] == 1 and one.instance(name)["stage"] == "routed", why="for the status to say so too")
    assert one.hosts()[node] != lost
    return one.stamp("gateway", f"{name} ended") - began_at, one.stamp("gateway", f"{name} is back") - began_at


def _with(cluster: Cluster, host: str, *marks: str) -> list[str]:
    """Pids on a host whose environment holds all the marks."""
    test = " && ".join(f"grep -qz '^{mark}' /proc/$p/environ" for mark in marks)
    script = f"for p in $(ls /proc | grep '^[0-9]'); do ({test}) 2>/dev/null && echo $p; done; true"
    return cluster.on(host, "bash", "-c", script, check=False).stdout.split()


def _unusable(cluster: Cluster, host: str) -> str:
    """What sinfo says of a host on which no step can be started; "" if one can."""
    return cluster.login("sinfo", "-h", "-N", "-n", host, "-p", "batch", "-t", "down,fail,no_respond,unk", "-o", "%N").stdout


def _pid_on(cluster: Cluster, host: str, *marks: str) -> str:
    """The worker's pid, as its host counts."""
    for pid in _with(cluster, host, *marks):
        if "worker.py" in cluster.on(host, "cat", f"/proc/{pid}/cmdline").stdout:
            return pid
    raise AssertionError(f"no worker with {marks} on {host}")
