"""Each refusal of a rank, as a real process: one clear line, its own exit code, and no worker begun."""

import json
import os
import socket
import subprocess
import sys

import pytest

from disagg_launch import launch, plan, zipapp
from disagg_launch.launch import Launch, Ref, Router, Start, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, Rank

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getpid()]))"


@pytest.fixture
def run(tmp_path):
    """run(worker, environ, ...) starts one rank of a two-rank instance in a fresh run folder, as the named launcher would."""

    def start(launcher="slurm", step="ctx0", digest=None, environ=None, refuse_gateway=False, port=0, **worker):
        layout = Plan(
            "t",
            1,
            4,
            (Instance("ctx0", CONTEXT, 0, 2, (0,), port or free_port()),),
            (Rank(0, "ctx0", CONTEXT, 0, 0, 0, 0, 2), Rank(1, "ctx0", CONTEXT, 1, 1, 0, 0, 3)),
        ).sealed()
        argv = worker.pop("argv", (sys.executable, "-I", "-S", "-c", SHOW, (Ref("gpus"),), (Ref("run"), "/x y"), "$HOME"))
        worker = Worker("ctx0", argv, **{"gpus": False, **worker})
        manifest = Launch(layout.digest, "local", (Start("ctx0", 0, 2, ("ctx0",), ("true",)),), (worker,), Router(("true",)))
        (tmp_path / "plan.json").write_text(plan.to_json(layout))
        (tmp_path / "launch.json").write_text(launch.to_json(manifest))
        (tmp_path / "runtime.pyz").write_bytes(zipapp.bundle())
        given = {"PATH": os.environ["PATH"], "SLURM_PROCID": "1", "SLURM_NTASKS": "2", **(environ or {})}
        command = [sys.executable, str(tmp_path / "runtime.pyz"), "rank", "--launcher", launcher, "--step", step]
        process = subprocess.Popen(
            [*command, "--digest", digest or layout.digest], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        out, err = process.communicate(timeout=60)
        return process.pid, process.returncode, out, err

    return start


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def refused(result, code):
    _, returned, out, err = result
    assert returned == code and out == "" and err.count("\n") == 1 and err.startswith("disagg-launch: "), err
    return err


def test_the_worker_gets_its_row_its_environment_and_the_same_pid(run, tmp_path):
    pid, code, out, err = run(
        gpus=True,
        environ={"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_JOB_ID": "7", "KEEP": "1", "GONE": "1"},
        unset=("SLURM_*", "GONE"),
        # a name given in `environ` wins over one that was unset
        argv=(sys.executable, "-I", "-S", "-c", SHOW, (Ref("gpus"),), (Ref("run"), "/x y"), "$HOME"),
    )
    assert code == 0 and "nobody watches it" in err
    arguments, seen, worker_pid = json.loads(out)
    assert worker_pid == pid
    assert arguments == ["7", f"{tmp_path}/x y", "$HOME"]
    assert seen["CUDA_VISIBLE_DEVICES"] == "7" and seen["KEEP"] == "1" and "GONE" not in seen
    assert not any(name.startswith("SLURM_") for name in seen)
    told = {name: value for name, value in seen.items() if name.startswith("DISAGG_")}
    assert told.pop("DISAGG_DIGEST") and told == {
        "DISAGG_RUN": str(tmp_path),
        "DISAGG_INSTANCE": "ctx0",
        "DISAGG_ROLE": "context",
        "DISAGG_RANK": "1",
        "DISAGG_INSTANCE_RANK": "1",
        "DISAGG_TP_RANK": "1",
        "DISAGG_PP_RANK": "0",
        "DISAGG_NODE_RANK": "0",
        "DISAGG_LOCAL_RANK": "1",
    }


def test_a_worker_that_wants_the_nodes_gpus_sees_all_of_its_instances(run):
    _, _, out, _ = run(gpus=True, visible="node", environ={"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
    assert json.loads(out)[1]["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_followers_get_further_words(run):
    argv = (sys.executable, "-I", "-S", "-c", SHOW)
    for number, words in (("0", []), ("1", ["--headless"])):
        _, _, out, _ = run(argv=argv, followers=("--headless",), environ={"SLURM_PROCID": number})
        assert json.loads(out)[0] == words


def test_stale_plan(run, tmp_path):
    assert "this step was rendered for feedfeedfeed: render the run again" in refused(run(digest="feedfeedfeed"), 70)


def test_a_plan_edited_by_hand(run, tmp_path, monkeypatch):
    real = plan.to_json
    monkeypatch.setattr(plan, "to_json", lambda layout: real(layout).replace('"gpu": 3', '"gpu": 1'))
    assert "edited by hand" in refused(run(), 70)


def test_wrong_world_size(run):
    assert "has 2 tasks in the plan, slurm started 3" in refused(run(environ={"SLURM_NTASKS": "3"}), 71)


def test_no_rank(run):
    assert "PMI_RANK is not set" in refused(run(launcher="hydra"), 75)
    assert "there is no step 'gen9'" in refused(run(step="gen9"), 75)
    assert "number 2 of 2" in refused(run(environ={"SLURM_PROCID": "2"}), 75)


def test_gpu_missing(run):
    assert "ctx0 rank 1 on" in refused(run(gpus=True, environ={"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "1"}), 72)


def test_port_taken_is_the_first_ranks_business(run):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is taken" in refused(run(port=port, environ={"SLURM_PROCID": "0"}), 73)
        assert run(port=port)[1] == 0


def test_a_lingering_connection_on_the_port_is_no_obstacle(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        peer, _ = server.accept()
    peer.close()  # the server's side closes first: its port is in TIME_WAIT now
    client.close()
    assert run(port=port, environ={"SLURM_PROCID": "0"})[1] == 0


def test_gateway_lost(run, tmp_path):
    assert "cannot be read" in refused(run(environ={"DISAGG_GATEWAY": "127.0.0.1:1"}), 74)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text("x\n")
    assert "cannot be reached" in refused(run(environ={"DISAGG_GATEWAY": f"127.0.0.1:{free_port()}"}), 74)


def test_missing_program(run):
    assert "'no-such-engine' was not found" in refused(run(argv=("no-such-engine", "serve")), 4)
