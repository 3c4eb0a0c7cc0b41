"""A whole deployment on this machine with real processes: ready, dying, late, stopped, killed. Afterwards nothing is left."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
from deployments import survivors, until

from disagg_launch import launch
from disagg_launch.launch import Policy, Readiness, Worker
from disagg_launch.runtime import wire

STOP_FIRST = Policy(grace_s=1)


def test_ready_once_then_ctrl_c_leaves_nobody(deploy):
    run = deploy((1, 1, 1), flags={"ctx1": ("--load-s", "0.5")})
    url = run.up().ready()
    assert url == f"http://127.0.0.1:{run.launch.router.port}"
    assert "pid" in run.log("router") and run.log("router").count(" start ") == 1
    state = json.loads((run.run / "state" / "status.json").read_text())
    assert state["state"] == "ready"
    assert [(i["name"], i["stage"], i["ranks"][0]["pid"]) for i in state["instances"]] == [
        (name, "routed", run.pids(name)[0]) for name in ("ctx0", "ctx1", "ctx2")
    ]
    assert stat.S_IMODE(os.stat(run.run / "state").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(run.run / "state" / "token").st_mode) == 0o600
    assert run.stop(signal.SIGINT) == 130
    assert json.loads((run.run / "state" / "status.json").read_text())["state"] == "stopped"


def test_sigterm_is_143_and_down_is_0(deploy):
    run = deploy(policy=Policy(grace_s=300))
    run.up().ready()
    os.kill(run.pids("ctx0")[0], signal.SIGSTOP)  # it is woken to end, which is not waited for as long as the grace
    assert run.stop(signal.SIGTERM) == 143
    again = deploy(name="again")
    again.up().ready()
    subprocess.run([sys.executable, str(again.run / "runtime.pyz"), "down"], check=True)
    assert again.wait() == 0


def test_a_worker_that_dies_while_starting_is_named_with_its_last_words(deploy):
    run = deploy((1, 1), flags={"ctx0": ("--load-s", "60"), "ctx1": ("--die-s", "0.1")})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    verdict = json.loads((run.run / "state" / "verdict.json").read_text())
    assert verdict["instance"] == "ctx1" and "rank 0 on" in verdict["reason"] and "exit code 3" in verdict["reason"]
    assert verdict["last_lines"][-1] == "ValueError: no such model"
    assert "ValueError: no such model" in run.text()
    assert not (run.run / "logs" / "router.log").exists()


def test_a_worker_that_is_killed_while_starting_is_named_with_its_signal(deploy):
    run = deploy((1, 1), flags={"ctx0": ("--load-s", "60"), "ctx1": ("--load-s", "60")})
    run.up()
    os.kill(until(lambda: run.run.joinpath("logs/ctx1.log").exists() and run.pids("ctx1"))[0], signal.SIGKILL)
    assert run.ready() == "" and run.wait() == 6
    assert "ctx1 ended: rank 0 on" in run.text() and "signal SIGKILL" in run.text()


def test_time_out_names_who_is_not_ready_and_what_each_last_said(deploy):
    run = deploy((1, 1, 1), flags={"ctx1": ("--status", "503"), "ctx2": ("--load-s", "60")}, readiness=Readiness(1.5, 0.1, 1, stall_s=5))
    run.up()
    assert run.ready() == "" and run.wait() == 5
    reason = json.loads((run.run / "state" / "verdict.json").read_text())["reason"]
    assert "2 of 3 instances" in reason and "/health answers 503" in reason and "ctx0" not in reason
    assert "ctx2: engine starting; nobody listens on" in reason and "i am ctx2" in reason


@pytest.mark.parametrize("deaf", [(), ("--deaf", "1")])
def test_killing_the_gateway_leaves_nobody(deploy, deaf):
    run = deploy((1, 1), flags={"ctx0": deaf, "ctx1": ("--fork", "1")}, policy=STOP_FIRST)
    run.up().ready()
    run.process.kill()
    until(lambda: survivors(run.run) == [])


def test_killing_the_gateway_while_workers_load_leaves_nobody(deploy):
    run = deploy((1, 1), flags={"ctx0": ("--load-s", "60"), "ctx1": ("--load-s", "60")}, policy=Policy(grace_s=300))
    run.up()
    until(lambda: run.run.joinpath("logs/ctx1.log").exists() and run.pids("ctx1"))
    os.kill(run.pids("ctx1")[0], signal.SIGSTOP)
    run.process.kill()
    until(lambda: survivors(run.run) == [])


def test_stopping_ends_deaf_workers_and_forgotten_grandchildren(deploy):
    run = deploy((1, 1), flags={"ctx0": ("--deaf", "1"), "ctx1": ("--fork", "1")}, policy=STOP_FIRST)
    run.up().ready()
    assert len([p for p in survivors(run.run) if "worker.py" in p]) == 4
    assert run.stop() == 130


def test_detached_the_shell_gets_its_prompt_back_when_the_router_is_open(deploy):
    run = deploy()
    argv = [sys.executable, str(run.run / "runtime.pyz"), "gateway", "--detach"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"ready: http://127.0.0.1:{run.launch.router.port}\n")
    subprocess.run([sys.executable, str(run.run / "runtime.pyz"), "down"], check=True)
    until(lambda: survivors(run.run) == [])
    assert json.loads((run.run / "state" / "verdict.json").read_text())["state"] == "stopped"


def test_detached_a_failure_is_the_exit_code_of_the_command(deploy):
    run = deploy(flags={"ctx0": ("--die-s", "0")})
    argv = [sys.executable, str(run.run / "runtime.pyz"), "gateway", "--detach"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 6 and "ctx0 ended: rank 0 on" in done.stderr
    assert survivors(run.run) == []


def test_ctrl_c_while_workers_load_is_130(deploy):
    run = deploy((1, 1), flags={"ctx1": ("--load-s", "60")})
    run.up()
    until(lambda: run.run.joinpath("logs/ctx1.log").exists() and run.pids("ctx1"))
    assert run.stop() == 130 and not (run.run / "logs" / "router.log").exists()


def test_a_rank_on_another_host_than_its_nodes_is_refused(deploy):
    run = deploy()
    run.up("--hosts", "192.0.2.7", "--listen", "127.0.0.1")
    assert run.ready() == "" and run.wait() == 6
    assert f"it runs on {socket.gethostname()}, node 0" in run.text()


def test_hosts_that_were_rendered_are_believed(deploy):
    run = deploy()
    (run.run / "binding.json").write_text(json.dumps({"hosts": ["192.0.2.7"], "addresses": ["192.0.2.7"]}))
    run.up("--listen", "127.0.0.1")
    assert run.ready() == "" and run.wait() == 6
    assert "node 0 is 192.0.2.7" in run.text()
    # and this machine is known by its own name
    again = deploy(name="again")
    named = {"hosts": [socket.gethostname()], "addresses": ["127.0.0.1"]}
    (again.run / "binding.json").write_text(json.dumps(named))
    assert again.up().ready() != "" and again.stop() == 130


def test_a_stranger_without_the_token_is_not_heard(deploy):
    run = deploy()
    run.up().ready()
    address = json.loads((run.run / "state" / "gateway.json").read_text())["address"]
    with pytest.raises((ValueError, OSError, KeyError)):
        wire.ask(address, b"guessed", {"kind": "stop"})["ok"]
    token = wire.read_token(str(run.run))
    assert wire.ask(address, token, {"kind": "state"})["state"] == "ready"
    assert "does not know messages of kind 'x'" in wire.ask(address, token, {"kind": "x"})["refused"]
    for noise in (b"\n", b"[]\n", b"x" * 70_000 + b"\n"):
        with socket.create_connection(wire.address_of(address)) as stranger:
            stranger.sendall(noise)
    assert run.stop() == 130


def test_a_second_signal_hastens(deploy):
    run = deploy(flags={"ctx0": ("--deaf", "1")}, policy=Policy(grace_s=300))
    run.up().ready()
    run.process.send_signal(signal.SIGINT)
    until(lambda: "stopped" in run.text())
    assert run.stop(signal.SIGINT) == 130


def test_a_port_that_a_stranger_holds_refuses_the_rank_and_names_the_port(deploy):
    run = deploy((1, 1))
    port = run.plan.instances[1].port
    with socket.create_server(("127.0.0.1", port)):
        run.up()
        assert run.ready() == "" and run.wait() == 6
    assert f"ctx1 rank 0 on {socket.gethostname()}: port {port} of 127.0.0.1 is taken" in run.text()


def test_a_taken_router_port_is_found_before_anything_is_started(deploy):
    run = deploy()
    with socket.create_server(("127.0.0.1", run.launch.router.port)):
        run.up()
        assert run.ready() == "" and run.wait() == 4
    port = run.launch.router.port
    assert f"the router's port {port} of 127.0.0.1 is taken (Address already in use, by process {os.getpid()}: " in run.text()
    assert "give another `port`" in run.text() and not (run.run / "logs" / "ctx0.log").exists()


def test_of_two_that_want_the_same_ports_the_later_starts_nothing_though_nobody_listens_yet(deploy):
    first, other = deploy(flags={"ctx0": ("--load-s", "60")}), deploy(name="other")
    shutil.copytree(first.run, other.run, dirs_exist_ok=True)
    first.up()
    until(lambda: first.run.joinpath("logs/ctx0.log").exists() and first.pids("ctx0"))
    holder = rf"\(Address already in use, by process {first.process.pid}: \S+ {first.run}/runtime.pyz gateway {first.run}\)"
    port, key = first.launch.router.port, "port"
    for who in ("the router", "ctx0"):
        other.up()
        assert other.ready() == "" and other.wait() == 4
        assert re.search(rf"{who}'s port {port} of 127.0.0.1 is taken {holder}: end that, or give another `{key}`", other.text())
        assert not (other.run / "logs" / "ctx0.log").exists()
        # a front door of its own is not enough
        (other.run / "launch.json").write_text(launch.to_json(replace(first.launch, router=other.launch.router)))
        port, key = first.plan.instances[0].port, "cluster.base_port"
    assert first.stop() == 130
    # what a run had is free as soon as it has ended
    (other.run / "launch.json").write_text(launch.to_json(replace(first.launch, workers=other.launch.workers)))
    assert other.up().ready() == f"http://127.0.0.1:{first.launch.router.port}"
    assert other.stop() == 130


def test_a_stale_step_script_is_refused(deploy):
    run = deploy()
    script = run.run / "steps" / "ctx0.sh"
    script.write_text(script.read_text().replace(run.plan.digest, "0123456789ab"))
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert "this step was rendered for 0123456789ab: render the run again" in run.text()


def test_a_missing_program_is_exit_4(deploy):
    run = deploy(workers=[Worker("ctx0", ("/no/such/engine", "serve"), gpus=False)])
    run.up()
    assert run.ready() == "" and run.wait() == 4
    assert "ctx0 ended: refused" in run.text() and "'/no/such/engine' was not found" in run.text()


def test_a_second_gateway_on_the_same_run_is_refused(deploy):
    run = deploy()
    run.up().ready()
    second = subprocess.run([sys.executable, str(run.run / "runtime.pyz"), "gateway"], capture_output=True, text=True)
    assert second.returncode == 4 and "is up already" in second.stderr
    assert run.stop() == 130


def test_a_death_after_ready_stops_everything_by_default(deploy):
    run = deploy((1, 1))
    run.up().ready()
    os.kill(run.pids("ctx1")[0], signal.SIGKILL)
    assert run.wait() == 6
    assert "ctx1 ended: rank 0 on" in run.text()


def test_a_full_disk_ends_nobody_who_serves(play):
    acts = {"ctx0": ("serve", "say:so that its pipe is used", "touch:spoke"), "ctx1": ("serve",)}
    run = play(acts, policy=Policy("restart", backoff_s=0.1))
    for path in ("logs/ctx0.log", "logs/gateway.log", "state/status.json.new", "state/verdict.json.new"):
        (run.run / path).parent.mkdir(exist_ok=True)
        (run.run / path).symlink_to("/dev/full")
    run.up().ready()
    assert b"200 so" in asked(run.plan.instance("ctx0").port, "/leave")
    until((run.run / "spoke").exists)
    os.kill(run.pids("ctx1")[0], signal.SIGKILL)
    until(lambda: "ctx1 is back" in run.text())
    assert "ctx0 ended" not in run.text()
    assert run.text().count("state/status.json cannot be written (No space left on device)") == 1
    assert run.stop() == 130


def test_a_file_system_that_stalls_silences_nobody(deploy):
    """To open a pipe for writing takes as long as nobody reads it, as an open file does whose server is gone."""
    run = deploy(flags={"ctx0": ("--lease", "1")}, policy=Policy(fence_s=3, grace_s=2))
    (run.run / "state").mkdir(mode=0o700)
    os.mkfifo(run.run / "state" / "status.json.new")
    run.up().ready()
    until(lambda: "its file system does not answer; everybody serves on" in run.text())  # longer than fence_s
    assert not (run.run / "lost").exists() and "ctx0 ended" not in run.text()
    with open(run.run / "state" / "status.json.new"):
        until(lambda: run.run.joinpath("state", "status.json").is_file())
    assert "i am ctx0" in run.log("ctx0")
    assert run.stop() == 130


def asked(port, path):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return connection.recv(4096)


def test_restart_brings_the_instance_back_alone(deploy):
    policy = Policy("restart", max_restarts=2, backoff_s=0.1, grace_s=2, fence_s=0.5)
    run = deploy((1, 1), flags={"ctx1": ("--fork", "1")}, policy=policy)
    program, manifest = run.run / "program", json.loads((run.run / "launch.json").read_text())
    starter = shutil.which(manifest["starts"][1]["argv"][0])
    program.symlink_to(starter)
    manifest["starts"][1]["argv"][0] = str(program)
    (run.run / "launch.json").write_text(json.dumps(manifest))
    run.up().ready()
    os.kill(run.pids("ctx1")[0], signal.SIGKILL)
    until(lambda: "ctx1 is back" in run.text())
    assert len(run.pids("ctx0")) == 1 and len(run.pids("ctx1")) == 2
    # what the first life left behind is gone too
    assert len([p for p in survivors(run.run) if "worker.py" in p]) == 4
    # it cannot be started for a while: the other serves on, and it is tried again
    program.unlink()
    os.kill(run.pids("ctx1")[1], signal.SIGKILL)
    until(lambda: "DEGRADED: ctx1 cannot be started now" in run.text())
    assert "ctx0 ended" not in run.text()
    program.symlink_to(starter)
    until(lambda: "not degraded any more (context 2 of 2)" in run.text())
    os.kill(run.pids("ctx1")[2], signal.SIGKILL)
    assert run.wait() == 6
    assert "ctx1 ended again after 2 restarts" in run.text()


def test_the_router_is_restarted_too(deploy):
    run = deploy(policy=Policy("restart", backoff_s=0.1, grace_s=2))
    run.up().ready()
    os.kill(run.pids("router")[0], signal.SIGKILL)
    until(lambda: "router is back" in run.text())
    assert run.stop() == 130


def test_ranks_without_mpi_run_side_by_side_and_the_first_to_die_is_named(deploy):
    run = deploy((3, 1))
    run.up().ready()
    assert {rank for rank, _ in run.lines("ctx0")} == {"0", "1", "2"}
    victim = next(int(text.split()[-1]) for rank, text in run.lines("ctx0") if rank == "2")
    os.kill(victim, signal.SIGKILL)
    assert run.wait() == 6
    assert f"ctx0 ended: rank 2 on {socket.gethostname()}: exit code 137 (SIGKILL)" in run.text()


@pytest.mark.slow
def test_a_hundred_instances_become_ready_and_leave_together(deploy):
    run = deploy((1,) * 100, readiness=Readiness(limit_s=200, interval_s=0.5))
    run.up().ready()
    state = json.loads((run.run / "state" / "status.json").read_text())
    assert {one["stage"] for one in state["instances"]} == {"routed"}
    os.kill(run.pids("ctx63")[0], signal.SIGKILL)
    assert run.wait() == 6
    assert "ctx63 ended: rank 0 on" in run.text() and "100 instances: 100 healthy" in run.text()


def test_the_gateway_has_no_thread_and_no_process_per_worker(deploy):
    run = deploy((1,) * 12)
    run.up().ready()
    gateway = psutil.Process(run.process.pid)
    assert gateway.num_threads() <= 4  # two that write, and the resolver's may be there
    others = [p for p in gateway.children(recursive=True) if "worker.py" not in " ".join(p.cmdline())]
    assert len(others) == 1  # the warden
    assert run.stop() == 130
