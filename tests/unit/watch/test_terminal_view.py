"""The terminal view as characters: any size, keys, and plain lines."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from shots import shot_of

from disagg_launch.watch.grid import grid
from disagg_launch.watch.keys import END, HOME, View, ordered, pressed
from disagg_launch.watch.live import keys
from disagg_launch.watch.plain import lines
from disagg_launch.watch.screen import screen
from disagg_launch.watch.words import clean, number, seconds

big = functools.cache(shot_of)  # for those who only look


def shown(shot, view=View(), width=80, height=24, log=()):  # noqa: B008  (frozen)
    return [line.plain for line in screen(shot, view, width, height, log)]


@pytest.mark.parametrize("page", ["instances", "nodes", "events", "log", "help"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 10), (120, 50), (300, 90), (40, 8)])
@pytest.mark.parametrize("count", [1, 3, 300])
def test_every_page_fills_the_terminal_and_no_more(page, width, height, count):
    made = shown(big(count, count, events=30), View(page=page), width, height, ["line"] * 200)
    assert len(made) == height
    assert max(map(len, made)) <= width
    assert made[-1].startswith("q leave")


def test_at_80_columns_nothing_of_the_table_is_cut():
    made = shown(shot_of())
    assert "  instance   stage            worker    active    reqs   errs  restarts   since" in made
    assert not [line for line in made if "…" in line]


def test_three_instances_leave_room_for_the_map_and_what_happened():
    made = shown(shot_of(2, 1, events=3))
    assert [line for line in made if line.startswith("node 0 [CCGG....]")]
    assert [line for line in made if "ctx0: s2" in line]


def test_of_300_those_in_trouble_come_first():
    made = shown(shot_of(200, 100, gen77={"stage": "started"}, ctx123={"ended": "rank 0 on n15: signal SIGKILL"}))
    rows = [line.split()[0].lstrip(">") or line.split()[1] for line in made if " healthy " in line or "ctx123" in line or "gen77" in line]
    assert rows[:3] == ["ctx123", "gen77", "ctx0"]
    assert [line for line in made if "signal SIGKILL" in line]
    assert "300 instances: 298 healthy, 1 ended, 1 started" in " ".join(made)


def test_the_chosen_instance_stays_in_sight():
    shot = big(200, 100)
    view = pressed(View(), END, shot)
    assert view.chosen == "gen99"
    assert [line for line in shown(shot, view) if line.startswith("> gen99")]
    assert [line for line in shown(shot, pressed(view, HOME, shot)) if line.startswith("> ctx0")]


def test_a_failed_deployment_shows_its_verdict():
    shot = {
        **shot_of(state="failed"),
        "verdict": {"reason": "ctx1 ended: rank 1 on n0: exit code 3\nmore", "cause": "disk full", "remedy": "make room"},
    }
    assert {"verdict: ctx1 ended: rank 1 on n0: exit code 3", "likely cause: disk full; make room"} <= set(shown(shot))


def test_the_map_tells_roles_and_states_without_colour():
    shot = shot_of(3, 2, ctx1={"stage": "loading"}, ctx2={"ended": "exit code 1"})
    assert [line.plain for line in grid(shot, 80, hosts=True)] == ["0 n0 [Cc!GGGG.]  "]


def test_nodes_that_look_alike_are_one_cell():
    made = [line.plain.rstrip() for line in grid(shot_of(160, 0), 80, hosts=False)]
    assert made == ["node 0-19 [CCCCCCCC]"]


def test_logs_and_events_show_their_ends_and_scroll_up():
    log = [f"[0] 2026-11-27T04:06:{n:02}.218Z line {n}" for n in range(60)]
    shot = shot_of()
    view = pressed(View(), "l", shot)
    assert [line for line in shown(shot, view, log=log) if line == "[0] 04:06:59 line 59"]
    up = pressed(view, "k", shot)
    assert "line 59" not in " ".join(shown(shot, up, log=log))
    assert "line 58" in " ".join(shown(shot, up, log=log))


def test_restart_asks_before_it_does():
    shot = shot_of()
    asking = pressed(pressed(View(), "j", shot), "r", shot)
    assert (asking.asking, asking.restart) == ("ctx1", "")
    assert "restart ctx1?" in shown(shot, asking)[-1]
    assert pressed(asking, "n", shot) == replace(View(), chosen="ctx1", said="not restarted")
    assert pressed(asking, "y", shot).restart == "ctx1"


def test_what_workers_say_cannot_write_to_the_terminal():
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07and\ttab\x1b") == "red and tab"
    shot = shot_of(2, 1, ctx0={"ended": "boom \x1b[2J\x1b]52;c;aGk=\x07gone"})
    shown_too = [*shown(shot), *shown(shot, width=200), *shown(shot, View(page="log"), log=["[0] \x1b[2Jhello"]), *lines(shot)]
    assert not [line for line in shown_too if not line.isprintable()]
    assert "[0] hello" in shown_too


def test_leaving_holding_and_pages():
    shot = shot_of()
    assert pressed(View(), "q", shot).left
    assert pressed(View(), " ", shot).held
    assert not pressed(pressed(View(), " ", shot), " ", shot).held
    assert pressed(View(), "n", shot).page == "nodes"
    assert pressed(pressed(View(), "n", shot), "n", shot).page == "instances"
    assert pressed(View(page="log", scroll=5), "\x1b", shot) == View()


def test_sorts_go_round():
    shot = shot_of(3, 1, ctx2={"restarts": 2})
    view, seen = View(), []
    for _ in range(7):
        seen.append(view.sort)
        view = pressed(view, "s", shot)
    assert view == View() and len(set(seen)) == 7
    assert ordered(shot, "restarts")[0]["name"] == "ctx2"


def test_what_terminals_send_becomes_keys():
    assert list(keys(b"j\x1b[A\x1b[6~q")) == ["j", "up", "page down", "q"]
    assert list(keys(b"\x1b")) == ["\x1b"]


def test_plain_lines_can_be_read_by_awk():
    made = list(lines(shot_of(2, 1, gen0={"stage": "role taken", "detail": "nobody listens"})))
    assert made[0] == (f"1970-01-01T00:16:40Z fleet plan {shot_of()['digest']}: ready, http://localhost:8000: 2 healthy, 1 role taken")
    assert made[1].startswith("  router in_flight=0 queued=0 requests=7 ")
    assert made[-1] == "  gen0 stage=role_taken worker=ready active=0 requests=0 errors=0 restarts=0 nobody listens"
    assert len(made) == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.00034, "340 us"), (0.0012, "1.2 ms"), (0.0312, "31 ms"), (0.25, "0.25 s"), (3.21, "3.2 s"), (42.0, "42 s")]
    + [(119.0, "119 s"), (600.0, "10 min"), (9000.0, "2 h"), (400000.0, "5 d"), (0.0996, "0.10 s"), (0.000999, "1.0 ms")],
)
def test_seconds_are_short(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.25, "0.25"), (7.5, "7.5"), (312.4, "312"), (12345, "12.3k"), (4.5e6, "4.5M"), (5e9, "5.0G")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
