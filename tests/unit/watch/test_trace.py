"""Start-up traces: phases and instances from an event log, and their forms."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
from shots import plan_of
from trace_events import BEGAN_AT, start_up, told

from disagg_launch.watch import trace_forms, trace_svg
from disagg_launch.watch.happened import first_token_at
from disagg_launch.watch.trace import Trace, trace

# https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: what each kind of event must have
BASE = {"type": "object", "required": ["name", "ph", "pid", "tid"], "properties": {"pid": {"type": "integer"}, "tid": {"type": "integer"}}}
KINDS = {
    "X": {"required": ["ts", "dur"], "properties": {"ts": {"type": "integer"}, "dur": {"type": "integer", "minimum": 0}}},
    "i": {"required": ["ts", "s"], "properties": {"ts": {"type": "integer"}, "s": {"enum": ["g", "p", "t"]}}},
    "M": {"required": ["args"], "properties": {"name": {"enum": ["process_name", "process_sort_index", "thread_name"]}}},
}
EVENT = {"allOf": [BASE, {"properties": {"ph": {"enum": list(KINDS)}}}]} | {
    "anyOf": [{**rest, "properties": {**rest["properties"], "ph": {"const": kind}}} for kind, rest in KINDS.items()]  # type: ignore[dict-item]
}
TRACE = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {"traceEvents": {"type": "array", "items": EVENT}, "displayTimeUnit": {"enum": ["ms", "ns"]}},
}


def check_chrome(made: dict) -> None:
    """The Trace Event format's rules: fields by kind, and spans of one thread that do not overlap."""
    jsonschema.validate(made, TRACE)
    threads: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for one in made["traceEvents"]:
        if one["ph"] == "X":
            assert one["ts"] >= 0
            threads.setdefault((one["pid"], one["tid"]), []).append((one["ts"], one["ts"] + one["dur"]))
    for spans in threads.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in zip(spans, spans[1:])), spans


def traced(ctx: int = 2, gen: int = 1, extra=(), first_token_s=None, **how) -> Trace:
    plan = plan_of(ctx, gen)
    made = trace(plan, [*start_up(plan, **how), *extra], None if first_token_s is None else BEGAN_AT + first_token_s)
    assert made is not None
    return made


def test_phases_come_in_order_with_what_they_took_and_who_was_last() -> None:
    made = traced(slurm=True, first_token_s=4.0)
    assert [(p.name, p.at_s, round(p.took_s, 3), p.last) for p in made.phases] == [
        ("submitted", -30.0, 0.0, ""),
        ("allocated", -2.0, 28.0, ""),
        ("gateway begun", 0.0, 2.0, ""),
        ("steps started", 0.1, 0.1, "gen0"),
        ("ranks up", 0.4, 0.3, "rank 3 of gen0"),
        ("healthy", 3.0, 2.6, "gen0"),
        ("router open", 3.5, 0.5, ""),
        ("first token", 4.0, 0.5, ""),
    ]


def test_a_proof_is_a_phase_and_so_is_only_the_last_before_the_router_opens() -> None:
    proofs = [told(t, "proof", ok=ok, context="ctx0", generation="gen0") for t, ok in ((3.1, True), (3.3, True), (3.4, False), (9.0, True))]
    made = traced(extra=proofs)
    assert [(p.name, p.at_s) for p in made.phases][-2:] == [("proved", 3.3), ("router open", 3.5)]


def test_who_is_added_later_is_no_part_of_the_start_up() -> None:
    before, plan = plan_of(1, 1), plan_of(1, 2)
    late = [told(t, "stage", "gen1", stage=stage, life=1) for t, stage in ((60.0, "started"), (61.0, "role taken"), (65.0, "healthy"))]
    made = trace(plan, [*start_up(before), *late])
    assert made is not None
    assert [(p.name, p.at_s, p.last) for p in made.phases if p.last] == [
        ("steps started", 0.1, "gen0"),
        ("ranks up", 0.4, "rank 2 of gen0"),
        ("healthy", 2.0, "gen0"),
    ]
    assert made.instances[2].own_s == 4.0 and made.slowest == "gen0"


def test_without_instances_only_the_router_is_waited_for() -> None:
    made = trace(plan_of(0, 0), [told(0.0, "begun"), told(2.0, "router", "router", stage="open")])
    assert made is not None and [p.name for p in made.phases] == ["gateway begun", "router open"]
    assert list(trace_forms.lines(made))[-1].startswith("router open") and "</svg>" in trace_svg.picture(made)


def test_what_is_not_over_is_not_a_phase() -> None:
    plan = plan_of(2, 1)
    events = [one for one in start_up(plan, opened=False) if not (one.get("stage") == "healthy" and one["instance"] == "gen0")]
    made = trace(plan, events)
    assert made is not None and [p.name for p in made.phases] == ["gateway begun", "steps started", "ranks up"]
    assert made.overhead_s is None and made.instances[2].healthy_s is None
    assert trace(plan, []) is None


def test_the_launchers_share_is_what_the_slowest_engine_does_not_explain() -> None:
    made = traced()
    assert [one.own_s for one in made.instances] == [0.5, 1.5, 2.5]
    assert (made.slowest, made.overhead_s) == ("gen0", pytest.approx(1.0))


def test_progress_and_restarts_are_spans_of_their_own_life() -> None:
    plan = plan_of(1, 1)
    loading = [told(0.6 + n / 10, "stage", "ctx0", stage="loading", percent=n * 10, life=1) for n in range(3)]
    again = [
        told(20.0, "ended", "ctx0", life=1, text="rank 0 on n0: signal SIGKILL"),
        told(21.0, "stage", "ctx0", stage="started", life=2),
        told(24.0, "stage", "ctx0", stage="healthy", life=2),
    ]
    events = sorted([*start_up(plan), *loading, *again], key=lambda one: one["t"])
    made = trace(plan, events)
    assert made is not None
    assert [(s.stage, s.from_s, s.to_s, s.life) for s in made.instances[0].spans] == [
        ("started", 0.1, 0.5, 1),
        ("role taken", 0.5, 0.6, 1),
        ("loading", 0.6, 1.0, 1),
        ("healthy", 1.0, 20.0, 1),
        ("started", 21.0, 24.0, 2),
        ("healthy", 24.0, None, 2),
    ]
    assert made.instances[0].own_s == 0.5
    assert [p.name for p in made.phases][-1] == "router open" and made.phases[-1].at_s == 2.5
    chrome = trace_forms.chrome(made, 30.0)
    check_chrome(chrome)
    assert max(one["ts"] + one["dur"] for one in chrome["traceEvents"] if one["ph"] == "X") == 30_000_000
    ended = trace(plan, [*events, told(26.0, "stopped")])
    assert ended is not None
    spans = [one for one in trace_forms.chrome(ended, 1e6)["traceEvents"] if one["ph"] == "X"]
    assert max(one["ts"] + one["dur"] for one in spans) == 26_000_000
    [mark] = [one for one in chrome["traceEvents"] if one["ph"] == "i"]
    assert (mark["name"], mark["ts"]) == ("ended: rank 0 on n0: signal SIGKILL", 20_000_000)


def test_of_several_lives_the_last_is_told() -> None:
    plan = plan_of(1, 1)
    first = start_up(plan)
    second = [{**one, "at": one["at"] + 500} for one in start_up(plan, pace_s=2.0)]
    made = trace(plan, [*first, *second])
    assert made is not None and made.began_at == BEGAN_AT + 500
    assert made.phases[-1].at_s == 3.5


@pytest.mark.parametrize("count", [1, 150])
def test_the_chrome_form_keeps_the_rules_of_the_format(count: int) -> None:
    made = traced(count, count, slurm=True, first_token_s=900.0, pace_s=0.013)
    chrome = trace_forms.chrome(made, 1000.0)
    check_chrome(chrome)
    assert json.loads(json.dumps(chrome)) == chrome
    names = {one["args"]["name"] for one in chrome["traceEvents"] if one["name"] == "process_name"}
    assert {"fleet", "ctx0 (context)", f"gen{count - 1} (generation)"} <= names
    assert len([one for one in chrome["traceEvents"] if one["name"] == "to its role"]) == 3 * count


def test_the_check_of_the_format_can_fail() -> None:
    good = {"name": "a", "ph": "X", "pid": 1, "tid": 0, "ts": 0, "dur": 5}
    for bad in ({**good, "ph": "Z"}, {k: v for k, v in good.items() if k != "dur"}, {**good, "dur": -1}):
        with pytest.raises(jsonschema.ValidationError):
            check_chrome({"traceEvents": [bad]})
    with pytest.raises(AssertionError):
        check_chrome({"traceEvents": [good, {**good, "ts": 3}]})


def test_the_table_names_phases_and_the_slowest_instances() -> None:
    text = list(trace_forms.lines(traced(first_token_s=4.0)))
    assert "phase          reached  took  last to come" in text
    assert "healthy           3.00  2.60  gen0" in text
    assert "gen0         0.10        0.50     3.00      2.50" in text
    assert text[-1] == "the launcher's own share: 1.00 s, which is to the open router, less gen0's own time"
    many = list(trace_forms.lines(traced(100, 50)))
    assert "and 130 instances before them (--all shows all)" in many and not [line for line in many if line.startswith("ctx0 ")]
    assert len(list(trace_forms.lines(traced(100, 50), every=True))) == len(many) - 1 + 130


@pytest.mark.parametrize(("count", "first_token_s"), [(1, None), (1, 500.0), (20, 40.0), (150, None)])
def test_the_picture_is_svg_and_all_of_it_lies_inside(count: int, first_token_s) -> None:
    made = traced(count, count, first_token_s=first_token_s)
    root = ET.fromstring(trace_svg.picture(made))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    boxes = root.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(boxes) > 3 * 2 * count
    for box in boxes:
        assert float(box.get("x", 0)) >= 0 and float(box.get("x", 0)) + float(box.get("width", 0)) <= width
        assert float(box.get("y", 0)) + float(box.get("height", 0)) <= height
    assert [t.text for t in root.findall(".//{http://www.w3.org/2000/svg}text") if t.text == "gen0"] == (["gen0"] if count < 25 else [])


def test_the_first_token_is_the_first_after_the_router_was_opened(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    assert first_token_at(log, [told(3.0, "router", "router", stage="open")]) is None
    log.write_text("x first token sent at 1002.500\n[0] y INFO app: first token sent at 1003.750\nfirst token sent at 1009.000\n")
    assert first_token_at(log, [told(3.0, "router", "router", stage="open")]) == 1003.75
    assert first_token_at(log, [told(0.0, "begun")]) is None
