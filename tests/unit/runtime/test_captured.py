"""Every captured log through the whole chain, from lines as they came to the cause that the verdict names."""

import pytest
from captured_logs import captured_logs
from run_scene import Scene

from disagg_launch.runtime import causes
from disagg_launch.runtime.causes import JOB

LOGS = captured_logs()


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_the_verdict_on_a_captured_log_names_its_cause(log, tmp_path):
    if log.over == "job":
        assert causes.fits(log.how, JOB).name == log.cause
        return
    told = judged(log, tmp_path)
    assert (told["cause_name"] or "none") == log.cause
    # and what the user is shown first has the line that says it, or how it ended
    shown = [told["how"], told["reason"], *told["first_errors"]]
    found = {cause.name for text in shown for where in causes.PLACES if (cause := causes.fits(text, where))}
    assert log.cause in found or (log.cause == "none" and not found)


def test_each_was_made_in_another_way():
    assert len({log.made for log in LOGS}) == len(LOGS)


def judged(log, tmp_path):
    scene = Scene(tmp_path)
    scene.instance("ctx0", 0)
    for number, text in enumerate(log.lines):
        scene.say(1 + number / 1000, "ctx0", 0, text)
    if log.over == "reason":
        return scene.judged(reason=log.how)
    scene.end(9, "ctx0", log.how, rank=0)
    return scene.judged("ctx0")
