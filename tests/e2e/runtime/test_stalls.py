"""Real workers that load slowly, or hang: who gets on is waited for, who does not is called early, with a look at where it is."""

import json
import re

import pytest

from disagg_launch.launch import Readiness
from disagg_launch.runtime.readiness import BUSY


@pytest.mark.parametrize("how", ["silence", "chatter"])
def test_a_worker_that_does_not_get_on_is_called_long_before_the_limit(deploy, how):
    run = deploy((1, 1), flags={"ctx1": ("--load", how)}, readiness=Readiness(limit_s=600, interval_s=0.1, stall_s=2))
    run.up()
    assert run.ready() == "" and run.wait() == 5
    verdict = json.loads((run.run / "state" / "verdict.json").read_text())
    assert verdict["instance"] == "ctx1" and "ctx1 has not got on for" in verdict["reason"] and "readiness.stall_s: 2" in verdict["reason"]
    stacks = (run.run / "logs" / "ctx1.stacks").read_text()
    assert (
        re.search(rf"pid {run.pids('ctx1')[0]} python.*\n(.*\n)* +load \(worker\.py:\d+\)\n", stacks)
        and not (run.run / "logs" / "ctx0.stacks").exists()
    )
    assert "where ctx1 is stuck: logs/ctx1.stacks" in run.text()


def test_a_worker_that_only_spins_is_called_too_after_more_patience(deploy):
    run = deploy((1,), flags={"ctx0": ("--load", "spin")}, readiness=Readiness(limit_s=600, interval_s=0.1, stall_s=2))
    run.up()
    assert run.ready() == "" and run.wait() == 5
    reason = json.loads((run.run / "state" / "verdict.json").read_text())["reason"]
    assert int(reason.split("has not got on for ")[1].split()[0]) >= BUSY * 2


def test_a_load_that_gets_on_may_take_longer_than_the_limit(deploy):
    run = deploy((1, 1), flags={"ctx1": ("--load", "growth")}, readiness=Readiness(limit_s=2, interval_s=0.1, stall_s=30))
    assert run.up().ready()
    assert run.stop() == 130
