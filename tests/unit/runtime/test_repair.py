"""What the policy makes of deaths: how many are too many, and what makes earlier ones forgotten."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import pytest

from disagg_launch.launch import Policy
from disagg_launch.runtime.record import Record
from disagg_launch.runtime.repair import LONG_S, Repair


@pytest.fixture
def one(tmp_path: pathlib.Path) -> Record:
    (tmp_path / "logs").mkdir()
    return Record("router", "127.0.0.1", 1, "logs/router.log")


def judged(one: Record, policy: Policy) -> tuple[Any, list[str]]:
    """What is decided about an instance that has just ended, and what was begun."""
    begun: list[str] = []
    fleet = SimpleNamespace(records={}, router=one)
    gateway: Any = SimpleNamespace(fleet=fleet, board=None, launch=SimpleNamespace(policy=policy))
    gateway.spawn = lambda work: (begun.append(work.__name__), work.close())
    return Repair(gateway).verdict(), begun


def lives(one: Record, run: pathlib.Path, seconds: float) -> None:
    """One more life, of so many seconds."""
    one.begin(str(run), "digest")
    one.end("exit code 1", one.begun_s + seconds)


def test_deaths_add_up_unless_a_long_life_lies_between(one: Record, tmp_path: pathlib.Path) -> None:
    policy = Policy("restart", max_restarts=2)
    for seconds in (1, 1):
        lives(one, tmp_path, seconds)
        assert judged(one, policy) == (None, ["_restart"])
    lives(one, tmp_path, LONG_S + 1)
    assert judged(one, policy) == (None, ["_restart"])
    assert one.tries == 1
    for seconds in (1, 1):
        verdict, begun = judged(one, policy)
        assert (verdict, begun) == (None, ["_restart"])
        lives(one, tmp_path, seconds)
    verdict, begun = judged(one, policy)
    assert "ended again after 2 restarts" in verdict.reason and not begun


def test_what_was_wished_for_is_another_life_all_the_same(one: Record, tmp_path: pathlib.Path) -> None:
    """Else an end in it would be taken for one that has been told already."""
    lives(one, tmp_path, 1)
    one.renew()
    one.forgive()
    assert (one.tries, one.as_dict()["restarts"]) == (0, 0)
    one.begin(str(tmp_path), "digest")
    assert (one.starts, one.tries) == (2, 1)


def test_without_a_policy_a_death_is_the_end(one: Record, tmp_path: pathlib.Path) -> None:
    lives(one, tmp_path, 1)
    verdict, begun = judged(one, Policy())
    assert verdict.exit_code == 6 and not begun


def test_a_last_line_is_as_long_as_can_be_read_and_moves_no_cursor(one: Record) -> None:
    one.hear(0, "\x1b[31mgone\x1b[0m\x1b[2J " + "x" * 200_000, 0.0)
    said = one.observed().last_line
    assert said.startswith("gone x") and len(said) <= 1000
