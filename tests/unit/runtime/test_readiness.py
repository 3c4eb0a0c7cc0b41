"""The judge, fed with histories: what it must say after each event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.runtime.readiness import FAILED, HEALTHY, READY, STAGES, STARTED, WAIT, Observation, describe, judge, stage_of

LOADING_STAGE = STAGES[4]
READY_STAGES = STAGES[6:]
UP = Observation("ctx0", HEALTHY)
LOADING = Observation("gen0", STARTED, detail="nobody listens on node1:8001", last_line="loading 3 of 9")


def test_waits_for_the_last_instance_by_name():
    assert judge([UP, LOADING], 1, 10).state == WAIT
    assert judge([UP, Observation("gen0", HEALTHY)], 1, 10).state == READY


def test_health_without_all_ranks_is_not_ready():
    assert judge([UP, Observation("gen0", HEALTHY, missing=(5,))], 1, 10).state == WAIT


def test_the_first_to_end_is_blamed_not_the_first_in_the_list():
    followers = Observation("ctx0", STARTED, ended="step world ended", ended_s=9.0)
    first = Observation("gen0", STARTED, ended="rank 1 on node2: signal SIGKILL", ended_s=8.0)
    verdict = judge([followers, first], 1, 10)
    assert (verdict.state, verdict.instance, verdict.exit_code) == (FAILED, "gen0", 6)
    assert verdict.reason == "gen0 ended: rank 1 on node2: signal SIGKILL"


def test_a_death_goes_before_a_time_out_and_before_readiness():
    dead = Observation("gen0", HEALTHY, ended="exit code 0", ended_s=1.0)
    assert judge([UP, dead], 99, 10).exit_code == 6
    assert judge([dead], 1, 10).state == FAILED


def test_time_out_tells_everyone_who_is_late_and_only_them():
    verdict = judge([UP, LOADING, Observation("gen1", STARTED, missing=(4, 5, 6, 9))], 10, 10)
    assert (verdict.state, verdict.exit_code) == (FAILED, 5)
    assert "ctx0" not in verdict.reason
    assert "gen0: started; nobody listens on node1:8001; last line: loading 3 of 9" in verdict.reason
    assert "gen1: started; no word of ranks 4-6,9" in verdict.reason


@pytest.mark.parametrize(
    ("started", "reported", "listening", "healthy", "stage"),
    [
        (False, False, False, False, "scheduled"),
        (True, False, False, False, "started"),
        (True, False, True, True, "started"),  # a stranger answers on the port
        (True, True, False, False, "role taken"),
        (True, True, True, False, "listening"),
        (True, True, True, True, "healthy"),
    ],
)
def test_stages(started, reported, listening, healthy, stage):
    assert stage_of(started, reported, listening, healthy) == stage


observations = st.builds(
    Observation,
    instance=st.sampled_from(["ctx0", "ctx1", "gen0"]),
    stage=st.sampled_from(STAGES),
    missing=st.lists(st.integers(0, 30), max_size=4, unique=True).map(tuple),
    ended=st.sampled_from(["", "exit code 1"]),
    ended_s=st.floats(0, 100),
)


@given(st.lists(observations, min_size=1, max_size=6), st.floats(0, 20))
def test_ready_means_everyone_is_healthy_complete_and_alive(seen, waited_s):
    verdict = judge(seen, waited_s, 10)
    everyone = all(one.stage in READY_STAGES and not one.missing and not one.ended for one in seen)
    assert (verdict.state == READY) == everyone
    assert (verdict.state == WAIT) == (not everyone and waited_s < 10 and not any(one.ended for one in seen))
    assert all(describe(one) for one in seen)


def still(still_s, idle_s, stage=STARTED):
    return Observation("gen0", stage, still_s=still_s, idle_s=idle_s, phase="weights", percent=42)


def test_a_hang_is_called_when_patience_ends_long_before_the_limit():
    assert judge([UP, still(29, 29)], 40, 600, stall_s=30).state == WAIT
    verdict = judge([UP, still(31, 31, LOADING_STAGE)], 40, 600, stall_s=30)
    assert (verdict.state, verdict.exit_code, verdict.instance, verdict.stuck) == (FAILED, 5, "gen0", ("gen0",))
    assert "gen0 has not got on for 31 s (readiness.stall_s: 30)" in verdict.reason and "loading: weights 42 %" in verdict.reason


def test_one_that_computes_is_given_longer_but_not_for_ever():
    assert judge([UP, still(89, 1)], 100, 600, stall_s=30).state == WAIT
    assert judge([UP, still(91, 1)], 100, 600, stall_s=30).state == FAILED


def test_the_deadline_moves_while_somebody_late_gets_on_but_not_without_end():
    assert judge([UP, still(1, 1)], 2000, 600, stall_s=30).state == WAIT
    assert judge([UP, still(4, 4)], 2000, 600, stall_s=30).state == FAILED
    assert judge([UP, still(1, 1)], 2400, 600, stall_s=30).state == FAILED


def test_before_its_first_rank_has_reported_only_the_limit_counts():
    waiting = Observation("gen0", STARTED, missing=(1,))
    assert judge([UP, waiting], 599, 600, stall_s=30).state == WAIT
    assert judge([UP, waiting], 600, 600, stall_s=30).state == FAILED


def test_who_is_up_may_be_as_still_as_it_likes():
    assert judge([Observation("ctx0", stage, still_s=1e6, idle_s=1e6) for stage in READY_STAGES], 1e6, 600, stall_s=30).state == READY
