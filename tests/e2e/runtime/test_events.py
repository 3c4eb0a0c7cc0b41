"""state/events.jsonl of real deployments: what happened, in order, with who and where."""

import json
import os
import signal
import socket
import stat

from deployments import until

from disagg_launch.launch import Policy


def told(run):
    """The events of a run, oldest first."""
    return [json.loads(line) for line in (run.run / "state" / "events.jsonl").read_text().splitlines()]


def of(run, kind):
    return [one for one in told(run) if one["event"] == kind]


def test_a_life_is_told_from_begin_to_stop(deploy):
    run = deploy((2, 1))
    run.up().ready()
    assert run.stop() == 130
    events = told(run)
    assert stat.S_IMODE(os.stat(run.run / "state" / "events.jsonl").st_mode) == 0o600
    assert all({"at", "t", "event", "instance", "text"} <= set(one) for one in events)
    assert [one["t"] for one in events] == sorted(one["t"] for one in events)
    begun, last = events[0], events[-1]
    assert (begun["event"], begun["digest"], begun["instances"], begun["ranks"]) == ("begun", run.plan.digest, 2, 3)
    assert (last["event"], last["state"]) == ("stopped", "stopped")
    ranks = of(run, "rank")
    assert sorted((one["rank"], one["instance"], one["host"]) for one in ranks) == [
        (0, "ctx0", socket.gethostname()),
        (1, "ctx0", socket.gethostname()),
        (2, "ctx1", socket.gethostname()),
    ]
    assert {one["pid"] for one in ranks if one["instance"] == "ctx1"} == set(run.pids("ctx1"))
    for name in ("ctx0", "ctx1"):
        stages = [one["stage"] for one in of(run, "stage") if one["instance"] == name and "rank" not in one]
        assert stages[0] == "started" and "healthy" in stages
    assert [one["stage"] for one in of(run, "router")] == ["open"]
    assert [(one["state"], one["code"]) for one in of(run, "verdict")] == [("stopped", 130)]


def test_a_death_and_a_restart_are_told_with_rank_host_and_how(deploy):
    run = deploy((1, 1), policy=Policy("restart", max_restarts=1, backoff_s=0.1, grace_s=2))
    run.up().ready()
    victim = run.pids("ctx1")[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: "ctx1 is back" in run.text())
    assert run.stop() == 130
    [ended] = of(run, "ended")
    assert {key: ended[key] for key in ("instance", "life", "rank", "host", "pid", "how", "code")} == {
        "instance": "ctx1", "life": 1, "rank": 1, "host": socket.gethostname(), "pid": victim, "how": "signal SIGKILL", "code": 6,
    }  # fmt: skip
    [again] = of(run, "restart")
    assert (again["instance"], again["life"], again["pause_s"]) == ("ctx1", 2, 0.1)
    lives = [one["life"] for one in of(run, "stage") if one["instance"] == "ctx1" and one["stage"] == "healthy"]
    assert lives == [1, 2]
    assert not [one for one in of(run, "stage") if one["instance"] == "ctx0" and one["life"] != 1]


def test_a_second_gateway_in_the_folder_appends(deploy):
    run = deploy(flags={"ctx0": ("--die-s", "0")})
    for _ in range(2):
        run.up()
        assert run.ready() == "" and run.wait() == 6
        run.process.stdout.close()
    assert [one["event"] for one in told(run) if one["event"] in ("begun", "stopped")] == ["begun", "stopped"] * 2
    assert [one["state"] for one in of(run, "verdict")] == ["failed"] * 2 and of(run, "verdict")[0]["instance"] == "ctx0"
