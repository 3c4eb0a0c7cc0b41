"""Snapshots: one value of plan, status, events and the router's page, and rates between two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pages import page, worker
from prometheus_client.parser import text_string_to_metric_families

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION, Instance, Plan, Rank
from disagg_launch.router.workers import State
from disagg_launch.watch import figures
from disagg_launch.watch.happened import EventLog, Happened
from disagg_launch.watch.keys import View
from disagg_launch.watch.look import Look
from disagg_launch.watch.plain import lines
from disagg_launch.watch.screen import screen
from disagg_launch.watch.shape import Snapshot
from disagg_launch.watch.snapshot import Known, snapshot

PLAN = Plan(
    "small",
    2,
    4,
    (Instance("ctx0", CONTEXT, 0, 1, (0,), 8001), Instance("gen0", GENERATION, 1, 2, (1,), 8002)),
    (
        Rank(0, "ctx0", CONTEXT, 0, 0, 0, 0, 0),
        Rank(1, "gen0", GENERATION, 0, 0, 0, 1, 2),
        Rank(2, "gen0", GENERATION, 1, 1, 0, 1, 3),
    ),
).sealed()


def row(name: str, port: int, stage: str = "healthy", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "url": f"http://127.0.0.1:{port}",
        "stage": stage,
        "detail": "",
        "last_line": "",
        "ended": "",
        "restarts": 0,
        **more,
    }


STATUS = {
    "state": "ready",
    "job": "",
    "router": row("router", 8000),
    "instances": [
        row("ctx0", 8001, ranks=[{"rank": 0, "host": "a", "pid": 5}]),
        row("gen0", 8002, "started", ranks=[{"rank": 1}, {"rank": 2}]),
    ],
    "resting": [],
}


def known(**more: Any) -> Known:
    return Known(PLAN, ("a", "b"), more.pop("status", STATUS), more.pop("happened", Happened()), **more)


def event(at: float, what: str, **more: Any) -> dict[str, Any]:
    return {"at": at, "t": at - 100, "event": what, **more}


def test_a_snapshot_is_json_of_the_documented_shape() -> None:
    made = snapshot(known(figures=figures.read(page(workers=[worker("127.0.0.1:8001", CONTEXT)]))), 110.0)
    checked = pydantic.TypeAdapter(Snapshot).validate_python(json.loads(json.dumps(made)), strict=True)
    assert checked == made


def test_plan_status_and_router_come_together_in_one_row() -> None:
    workers = [worker("127.0.0.1:8001", CONTEXT, State.SUSPECT, active=3, requests=7, errors=2)]
    made = snapshot(known(figures=figures.read(page(in_flight=3, queued=1, workers=workers))), 110.0)
    ctx0, gen0 = made["instances"]
    assert (ctx0["worker_state"], ctx0["active"], ctx0["requests"], ctx0["errors"]) == ("suspect", 3, 7, 2)
    assert ctx0["ranks"][0] == {"rank": 0, "tp": 0, "pp": 0, "node": 0, "gpu": 0, "host": "a", "pid": 5, "stage": "healthy"}
    assert gen0["worker_state"] == ""
    assert [(r["stage"], r["pid"]) for r in gen0["ranks"]] == [("scheduled", 0)] * 2
    assert (made["router"]["in_flight"], made["router"]["queued"]) == (3, 1)
    assert made["nodes"] == [{"node": 0, "host": "a", "gpus": 4}, {"node": 1, "host": "b", "gpus": 4}]


def test_servers_that_somebody_else_started_are_shown_too() -> None:
    workers = [worker("127.0.0.1:8001", CONTEXT), worker("far:9000", GENERATION, State.DRAINING, active=2, requests=5, errors=1)]
    made = snapshot(known(figures=figures.read(page(workers=workers))), 110.0)
    other = {"url": "far:9000", "role": GENERATION, "worker_state": "draining", "active": 2, "requests": 5, "errors": 1}
    assert made["others"] == [other]
    assert "  far:9000                    draining       2       5      1" in [line.plain for line in screen(made, View(), 80, 24)]
    assert "  far:9000 role=generation worker=draining active=2 requests=5 errors=1" in list(lines(made))


def test_who_ended_or_rests_is_shown_so() -> None:
    rows = [row("ctx0", 8001, ended="rank 0 on a: exit code 3"), row("gen0", 8002)]
    made = snapshot(known(status={**STATUS, "instances": rows, "resting": ["gen0"]}), 110.0)
    assert [one["stage"] for one in made["instances"]] == ["ended", "resting"]
    assert made["instances"][0]["ended"] == "rank 0 on a: exit code 3"


def test_what_has_been_stopped_is_not_shown_as_it_was_before() -> None:
    rows = [
        row("ctx0", 8001, "routed", ended="rank 0 on a: exit code 3"),
        row("gen0", 8002, "routed", ranks=[{"rank": 1, "pid": 3, "stage": "routed"}]),
    ]
    happened = Happened()
    happened.add([event(100, "begun"), event(101, "stage", instance="gen0", stage="routed"), event(103, "ended", instance="ctx0", rank=0)])
    made = snapshot(known(status={**STATUS, "state": "failed", "instances": rows}, happened=happened), 110.0)
    assert [(one["stage"], one["since_s"]) for one in made["instances"]] == [("ended", 7.0), ("stopped", None)]
    assert {rank["stage"] for one in made["instances"] for rank in one["ranks"]} == {"ended", "stopped"}


def test_rates_and_spreads_are_of_the_time_between_two_snapshots() -> None:
    before = snapshot(known(figures=figures.read(page(10, 100, [8.0] * 1000))), 100.0)
    after = snapshot(known(figures=figures.read(page(30, 500, [8.0] * 1000 + [0.1] * 10))), 104.0, before)
    assert before["router"]["requests_per_s"] is None
    assert before["router"]["ttft_s"]["p50"] == pytest.approx(6.144, rel=0.5)
    assert (after["router"]["requests_per_s"], after["router"]["tokens_per_s"]) == (5.0, 100.0)
    assert after["router"]["ttft_s"]["count"] == 10
    assert 0.064 < after["router"]["ttft_s"]["p50"] <= after["router"]["ttft_s"]["p99"] <= 0.128  # type: ignore[operator]


def test_a_router_that_began_anew_counts_from_nought() -> None:
    before = snapshot(known(figures=figures.read(page(1000, 9000, [0.1] * 50))), 100.0)
    after = snapshot(known(figures=figures.read(page(4, 8, [0.1] * 2))), 102.0, before)
    assert (after["router"]["requests_per_s"], after["router"]["tokens_per_s"], after["router"]["ttft_s"]["count"]) == (2.0, 4.0, 2)


def test_a_router_that_does_not_answer_makes_no_rates() -> None:
    before = snapshot(known(figures=figures.read(page(1000))), 100.0)
    silent = snapshot(known(), 101.0, before)
    back = snapshot(known(figures=figures.read(page(1010))), 102.0, silent)
    assert not silent["answers"]
    assert (silent["router"]["requests_per_s"], back["router"]["requests_per_s"]) == (None, None)


def test_events_tell_since_when_and_how_far() -> None:
    happened = Happened()
    happened.add(
        [
            event(100, "begun"),
            event(101, "stage", instance="ctx0", stage="healthy"),
            event(102, "stage", instance="gen0", stage="started", percent=10),
            event(104, "stage", instance="gen0", stage="started", percent=55),
            event(104, "stage", instance="gen0", rank=1, stage="loading", percent=55),
            event(105, "router", instance="router", stage="open"),
        ]
    )
    made = snapshot(known(happened=happened), 110.0)
    ctx0, gen0 = made["instances"]
    assert (ctx0["since_s"], gen0["since_s"], gen0["percent"]) == (9.0, 8.0, 55)
    assert [r["stage"] for r in gen0["ranks"]] == ["loading", "scheduled"]
    assert (made["began_at"], made["ready_s"]) == (100, 5)
    happened.add([event(200, "begun")])
    assert snapshot(known(happened=happened), 210.0)["instances"][0]["since_s"] is None


def test_the_event_log_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    assert log.news() == []
    path.write_text('{"event": "begun"}\nno json\n[1]\n{"event": "st')
    assert log.news() == [{"event": "begun"}]
    with path.open("a") as file:
        file.write('ep"}\n')
    assert log.news() == [{"event": "step"}]
    assert log.news() == []
    path.write_text('{"event": "begun"}\n')
    assert log.news() == [{"event": "begun"}]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run folder"):
        Look(tmp_path)()


@pytest.mark.parametrize(("share", "seconds"), [(0.25, 1.5), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)])
def test_quantiles_are_interpolated_as_prometheus_does(share: float, seconds: float) -> None:
    assert figures.quantile({"bounds": [1.0, 2.0, 4.0], "counts": [0, 50, 50, 0]}, share) == pytest.approx(seconds)


def test_pages_are_read_as_prometheus_own_client_reads_them() -> None:
    odd = r'odd{a="b\n, c}",b="say \"x\\y\""} 1.5e3 1700000000000' + "\nnan NaN\n"
    text = page(12, 34, [0.1, 7.0], [worker("h:2", GENERATION, requests=5), worker("h:1", CONTEXT, State.SUSPECT, active=3)]) + odd
    theirs = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            theirs[one.name.removesuffix("_total"), tuple(sorted(one.labels.items()))] = str(one.value)
    ours = {(name.removesuffix("_total"), tuple(sorted(labels.items()))): str(value) for name, labels, value in figures.samples(text)}
    assert {key: float(value) for key, value in ours.items() if value != "nan"} == {k: float(v) for k, v in theirs.items() if v != "nan"}
    assert ours["nan", ()] == theirs["nan", ()] == "nan"


@pytest.mark.parametrize("text", ["<html>", '[{"a": 1}]', "name", "name{ 1", "9name 1", "name one"])
def test_what_is_no_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no Prometheus text|could not convert"):
        figures.read(text)


def test_what_is_above_every_bound_is_said_to_be_at_the_last() -> None:
    assert figures.quantile({"bounds": [1.0, 2.0], "counts": [0, 0, 5]}, 0.5) == 2.0
    assert figures.quantile({"bounds": [], "counts": []}, 0.5) is None
