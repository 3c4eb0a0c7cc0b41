"""Changes as the gateway of tiny workers carries them out: what a change waits for, and what of it outlasts the gateway."""

import dataclasses
import json
import os
import shutil
import signal

from deployments import survivors, until

from disagg_launch import launch
from disagg_launch.launch import Policy
from disagg_launch.runtime import folder


def change(run, **wishes):
    """The gateway's answer to a change that leaves the plan as it is."""
    fresh = run.run / "state" / "change.1"
    fresh.mkdir()
    for name in ("plan.json", "launch.json"):
        shutil.copy(run.run / name, fresh)
    message = {"kind": "change", "folder": fresh.name, "starts": [], "replaces": [], "stops": [], "drain_s": 0.1, **wishes}
    answer = folder.call(str(run.run), message)
    shutil.rmtree(fresh, ignore_errors=True)
    return answer


def done(run):
    """The last change's problems, once it is over."""
    return until(lambda: (told := folder.call(str(run.run), {"kind": "progress"}))["busy"] is False and told)["problems"]


def test_who_was_stopped_on_purpose_stays_so_when_the_gateway_begins_anew(deploy):
    run = deploy((1, 1, 1))
    run.up().ready()
    assert change(run, stops=["ctx1"]) == {"ok": True}
    assert done(run) == ["ctx1 may have had requests (the router did not tell) after 0.1 s; they were cut"]
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    until(lambda: survivors(run.run) == [])
    run.up().ready()
    assert [len(run.pids(name)) for name in ("ctx0", "ctx1", "ctx2")] == [2, 1, 2]
    state = json.loads((run.run / "state" / "status.json").read_text())
    assert (state["state"], state["resting"]) == ("ready", ["ctx1"])
    assert [one["stage"] for one in state["instances"]] == ["routed", "scheduled", "routed"]
    assert run.stop() == 130


def test_a_change_waits_for_ranks_that_are_on_their_way(deploy):
    """They carry the digest of the old plan: they would be refused, and that would count as another death."""
    run = deploy((1, 1), policy=Policy("restart", backoff_s=0.1, grace_s=2))
    slow = ("sh", "-c", 'while test -e wait; do sleep 0.05; done; exec "$@"', "sh")
    starts = tuple(dataclasses.replace(one, argv=(*slow, *one.argv)) for one in run.launch.starts)
    (run.run / "launch.json").write_text(launch.to_json(dataclasses.replace(run.launch, starts=starts)))
    run.up().ready()
    (run.run / "wait").touch()
    os.kill(run.pids("ctx1")[0], signal.SIGKILL)
    until(lambda: "start 2 at" in run.log("ctx1"))
    assert change(run, stops=["ctx0"]) == {"refused": "ctx1 is being started: try again when it is up"}
    (run.run / "wait").unlink()
    until(lambda: "ctx1 is back" in run.text())
    assert change(run) == {"ok": True}
    assert run.stop() == 130


def test_a_file_is_never_half_written_for_who_reads_it_meanwhile(deploy):
    run = deploy((1,))
    run.up().ready()
    with (run.run / "binding.json").open() as before:
        assert change(run) == {"ok": True}
        assert json.load(before) == json.loads((run.run / "binding.json").read_text())
        assert os.fstat(before.fileno()).st_ino != (run.run / "binding.json").stat().st_ino
    assert run.stop() == 130
