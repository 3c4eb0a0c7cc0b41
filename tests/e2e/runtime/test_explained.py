"""Verdicts on real processes: cascades, signals, memory, restarts, a gateway that was killed; and what explain, status and logs say."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from deployments import survivors, until

from disagg_launch.launch import Policy

HOST = socket.gethostname()


def verdict(run):
    return json.loads((run.run / "state" / "verdict.json").read_text())


def cli(run, *words):
    done = subprocess.run([sys.executable, "-m", "disagg_launch", *words, str(run.run)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_who_failed_first_is_named_though_others_end_before_and_shout(play):
    """ctx2 runs out of GPU memory and then hangs in its own clean-up; the others lose it, shout, and end."""
    broken = ("await:failed", "shout:3000:ERROR 01-01 00:00:00 [x.py:1] Connection reset by peer", "exit:1")
    first = "say:Traceback (most recent call last):\\n  File x\\ntorch.OutOfMemoryError: CUDA out of memory."
    run = play({"ctx0": broken, "ctx1": broken, "ctx2": (first, "touch:failed")})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    told = verdict(run)
    assert (told["instance"], told["rank"], told["host"], told["how"]) == ("ctx2", 0, HOST, "had not ended yet")
    assert told["first_errors"] == ["Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory."]
    assert told["cause_name"] == "gpu-memory" and told["followed"][0]["instance"] in ("ctx0", "ctx1")
    assert "likely cause: the GPU ran out of memory" in run.text() and "what to do: lower" in run.text()
    # the same again later, in words and for programs
    code, said = cli(run, "explain")
    assert code == 0 and f"first to fail: ctx2 rank 0 on {HOST}" in said and "torch.OutOfMemoryError" in said
    assert json.loads(cli(run, "explain", "--json")[1]) == told
    code, said = cli(run, "status")
    assert code == 6 and f"ctx2 rank 0 on {HOST} failed first: the GPU ran out of memory" in said


def test_the_rank_of_an_instance_that_failed_first_is_named(play):
    steps = (
        "2=say:OSError: [Errno 28] No space left on device",
        "2=touch:failed",
        "await:failed",
        "0=say:Connection reset by peer",
        "exit:1",
    )
    run = play({"ctx0": steps}, sizes=(4,))
    run.up()
    assert run.ready() == "" and run.wait() == 6
    told = verdict(run)
    assert (told["instance"], told["rank"], told["cause_name"]) == ("ctx0", 2, "disk-full")


def test_killed_by_a_signal(play):
    run = play({"ctx0": ("await:never",), "ctx1": ("kill:SIGSEGV",)})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    told = verdict(run)
    assert (told["instance"], told["how"], told["cause_name"]) == ("ctx1", "signal SIGSEGV", "crashed")


def test_memory_that_the_host_refuses(play):
    run = play({"ctx0": ("limit:300", "eat:600")})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    told = verdict(run)
    assert told["cause_name"] == "host-memory" and told["first_errors"][-1] == "MemoryError"


@pytest.fixture
def small_cgroup():
    """A memory cgroup of 60 MB, of either version, that processes may be put into."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        folder = pathlib.Path(root) / f"disagg-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(60 << 20))
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder
        until(lambda f=folder: (f / "cgroup.procs").read_text() == "")
        folder.rmdir()
        return
    pytest.skip("no memory cgroup may be made here")


def test_the_kernels_killer_is_told_from_anybody_elses(play, small_cgroup):
    run = play({"ctx0": ("await:never",), "ctx1": (f"cgroup:{small_cgroup}", "eat:200")})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    told = verdict(run)
    assert (told["instance"], told["cause_name"]) == ("ctx1", "oom-killed")
    assert told["how"].startswith("signal SIGKILL; the kernel killed")


def test_a_run_that_goes_on_tells_its_restarts_and_why(play):
    leaves = ("serve", "say:OSError: [Errno 28] No space left on device", "exit:9")
    run = play({"ctx0": leaves, "ctx1": ("serve",)}, policy=Policy("restart", max_restarts=3, backoff_s=0.1, grace_s=2))
    run.up().ready()
    code, said = cli(run, "explain")
    assert (code, said) == (0, "ready: nothing has failed\n")
    urllib.request.urlopen(f"http://127.0.0.1:{run.plan.instances[0].port}/leave").close()
    until(lambda: "ctx0 is back" in run.text())
    told = json.loads(cli(run, "explain", "--json")[1])
    assert (told["state"], told["reason"]) == ("ready", "nothing has failed")
    assert [(one["instance"], one["how"], one["cause_name"]) for one in told["restarts"]] == [
        ("ctx0", f"rank 0 on {HOST}: exit code 9", "disk-full")
    ]
    assert "restarted before: ctx0 at" in cli(run, "explain")[1]
    assert run.stop() == 130
    assert cli(run, "explain")[1].startswith("stopped: SIGINT received")


def test_a_gateway_killed_with_9_is_explained_from_what_it_left(play):
    run = play({"ctx0": ("serve",)}, policy=Policy(grace_s=1))
    run.up().ready()
    run.process.kill()
    until(lambda: survivors(run.run) == [])
    assert not (run.run / "state" / "verdict.json").exists()
    code, said = cli(run, "explain")
    assert code == 0 and "failed: the gateway ended without a word" in said
    assert f"first to fail: gateway on {HOST}" in said and "likely cause: the gateway was killed, or its node went down" in said
    assert "ready: http://" in said
    # the next life of the folder does not inherit it
    run.up().ready()
    assert run.stop() == 130
    assert cli(run, "explain")[1].startswith("stopped: ")


def test_following_logs_begins_before_the_run_and_ends_with_it(play):
    run = play({"ctx0": ("say:hello of ctx0", "serve"), "ctx1": ("say:hello of ctx1", "serve")})
    words = [sys.executable, "-m", "disagg_launch", "logs", "-f", str(run.run), "ctx*"]
    follower = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(follower.stdout))
    reader.start()
    run.up().ready()
    until(lambda: {"ctx0", "ctx1"} <= {line.split()[0] for line in lines if "hello" in line})
    run.process.send_signal(signal.SIGINT)
    assert follower.wait(60) == 0
    assert run.wait() == 130
    reader.join()
    assert all(line.split()[0] in ("ctx0", "ctx1") for line in lines)
    assert cli(run, "logs", "-n", "1")[1].split()[0] == "gateway"


def test_what_was_never_started_says_so(play):
    run = play({"ctx0": ("serve",)})
    code, said = cli(run, "explain")
    assert code == 0 and said.startswith("rendered: nothing has been started here")
    (run.run / "plan.json").unlink()
    assert cli(run, "explain")[0] == 2
