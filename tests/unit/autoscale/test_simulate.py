"""Traces, what a policy makes of them, and the command that shows it."""

from __future__ import annotations

import json
import pathlib
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch import spec
from disagg_launch.autoscale import chart, models, outcome, trace
from disagg_launch.autoscale.simulate import Model, Moment, arrivals, calm, capacity, simulate
from disagg_launch.commands.autoscale import autoscale
from disagg_launch.errors import BadInput
from disagg_launch.launch import Target
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.policy import Seen

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"
SVG = "{http://www.w3.org/2000/svg}"


def load(requests: list[int], span_s: float = 5.0) -> list[trace.Look]:
    """A trace in which so many requests came to both roles, calm as can be."""
    looks = []
    for number, count in enumerate(requests, 1):
        figures = {"requests": count, "answered": count, "ttft_s": 0.1, "completed": count}
        looks.append({role: Seen(number * span_s, span_s, 1, **figures, busy_s=1.0) for role in trace.ROLES})
    return looks


def run(requests: list[int], target: Target, start_s: float = 10.0, slots: int = 1) -> list[Moment]:
    """What `target` makes of generation servers that take one second for a request."""
    made = {GENERATION: Model(target.minimum, slots, 1.0, 0.1, target)}
    return simulate(load(requests), made, 5.0, 30.0, start_s, 300.0)


def counts(moments: list[Moment]) -> list[int]:
    return [moment[GENERATION].seen.instances for moment in moments]


def test_as_many_as_the_load_needs_and_no_more_afterwards() -> None:
    """Two requests a second, one second each: two are just enough in the long run, three catch up."""
    moments = run([10] * 60, Target(1, 5, queue_s=1.0, cool_down_s=30))
    there = counts(moments)
    assert there[0] == 1
    assert 2 <= max(there) <= 4
    assert there[-1] == 1
    rises = [b - a for a, b in zip(there, there[1:]) if b > a]
    assert len(rises) == max(there) - 1, "it went to and fro"
    assert sum(moment[GENERATION].seen.requests for moment in moments) == 600, "every request has its turn"


def test_a_calm_load_changes_nothing() -> None:
    assert set(counts(run([2] * 100, Target(1, 5, queue_s=1.0)))) == {1}


def test_a_new_instance_serves_only_after_its_start() -> None:
    moments = run([50] * 20, Target(1, 3, queue_s=0.5, cool_down_s=0), start_s=20.0)
    wished = next(i for i, moment in enumerate(moments) if (w := moment[GENERATION].wish) and w.instances == 2)
    there = counts(moments)
    assert there[wished + 4] == 1
    assert there[wished + 5] == 2
    assert all(moment[GENERATION].wish is None for moment in moments[wished + 1 : wished + 5])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 4), st.sampled_from([0.0, 30.0]), st.integers(1, 3))
def test_nobody_is_lost_and_time_only_goes_forward(requests: list[int], most: int, cool_down_s: float, slots: int) -> None:
    moments = run(requests, Target(1, most, queue_s=1.0, cool_down_s=cool_down_s), slots=slots)
    assert all(1 <= count <= most for count in counts(moments))
    last = moments[-1][GENERATION].seen
    assert sum(moment[GENERATION].seen.requests for moment in moments) + last.waiting == sum(requests)
    assert all(moment[GENERATION].seen.queue_s >= 0 for moment in moments)


def test_requests_pass_context_first() -> None:
    """One slow context server lets one request a second through: generation servers never see more."""
    made = {CONTEXT: Model(1, 1, 1.0, 1.0), GENERATION: Model(1, 4, 1.0, 0.1, Target(1, 3, queue_s=0.5, cool_down_s=0))}
    moments = simulate(load([25] * 20), made, 5.0, 30.0, 10.0, 0.0)
    assert all(moment[GENERATION].seen.requests <= 6 for moment in moments)
    assert moments[-1][CONTEXT].seen.waiting > 300
    assert set(counts(moments)) == {1}


def test_how_long_a_request_takes_is_seen_where_it_is_calm() -> None:
    looks = [{GENERATION: Seen(i, 1, 1, completed=10, answered=10, busy_s=busy, ttft_s=busy / 10)} for i, busy in enumerate([9, 2, 7, 5])]
    assert calm(looks, GENERATION) == (2, 0.2)
    assert calm(looks, CONTEXT) == (0, 0)


def test_how_much_an_instance_can_do_is_seen_where_others_wait() -> None:
    waiting = [0, 4, 5, 6, 0, 7]
    looks = [{GENERATION: Seen(i * 5, 5, 2, completed=10 + i, busy_s=3, waiting=many)} for i, many in enumerate(waiting)]
    assert capacity(looks, GENERATION) == (12 + 13) / 20
    assert capacity(looks[:2], GENERATION) == 0
    topology = spec.load(EXAMPLES / "autoscale.yaml")
    both = [{**look, CONTEXT: Seen(1, 1, 1, completed=1, busy_s=1)} for look in looks]
    assert models.models(topology, both, {}, {})[GENERATION].busy_s == pytest.approx(4 / 1.25)
    assert models.models(topology, both, {}, {GENERATION: 9.0})[GENERATION].busy_s == 9


def test_a_trace_comes_back_as_it_was_written() -> None:
    looks = load([3, 0, 7])
    text = "\n".join(trace.line(look) for look in looks)
    assert trace.read(text, "t") == looks
    assert arrivals(looks, {GENERATION: Model(1, 1, 1, 1)})[:3] == pytest.approx([5 / 6, 15 / 6, 25 / 6])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        ("x", "t:1: no JSON"),
        ("[]", "t:1: found list"),
        ('{"at_s": 1}', "t:1: no look at a deployment"),
        ('{"at_s": 1, "span_s": 1}', "found span_s 1 and 0 roles"),
        ('{"at_s": 1, "span_s": 1, "context": {"instances": 1, "speed": 2}}', "speed"),
        ('{"at_s": 1, "span_s": 1, "context": {"instances": "1"}}', "'1' is no number"),
        ('{"at_s": 1, "span_s": 0, "context": {"instances": 1}}', "needed a time above 0"),
        ('\n{"at_s": 1}', "t:2: no look at a deployment"),
        ('{"total_us": 5, "status": 200, "time": "yesterday"}', "t:1: no line of a front door's access log"),
        ('{"total_us": 5, "status": 200, "time": 5.0, "ctx": "a", "gen": "b"}', "t:1: no line of a front door's access log"),
        ('{"total_us": 5, "status": 503}', "t: the access log holds no request that was answered"),
    ],
)
def test_what_is_no_trace(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        trace.read(text, "t")


def test_an_access_log_is_a_trace() -> None:
    line = {
        "status": 200,
        "ctx": "a:1",
        "gen": "b:1",
        "queued_us": 100_000,
        "prefill_us": 400_000,
        "ttft_us": 500_000,
        "total_us": 2_000_000,
    }
    rows = [{**line, "time": 1000.0 + second} for second in range(12)] + [{**line, "time": 1000.0, "status": 503}]
    looks = trace.read("\n".join(map(json.dumps, rows)), "access.log")
    assert [look[CONTEXT].requests for look in looks] == [2, 5, 5]
    assert looks[1][CONTEXT].queue_s == pytest.approx(0.1)
    assert looks[1][CONTEXT].busy_s == pytest.approx(0.3)
    assert looks[1][GENERATION].ttft_s == pytest.approx(0.1)
    assert looks[1][GENERATION].busy_s == pytest.approx(1.6)


def test_the_picture_shows_what_happened() -> None:
    target = Target(1, 5, queue_s=1.0, cool_down_s=30)
    made = {GENERATION: Model(1, 1, 1.0, 0.1, target)}
    moments = simulate(load([10] * 60), made, 5.0, 30.0, 10.0, 300.0)
    root = ElementTree.fromstring(chart.picture("a <b>", moments, made))
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert texts[0] == "a <b>"
    assert {"gen requests/s", "gen instances", "gen wait, s"} <= set(texts)
    lines = [one.get("d") for one in root.iter(f"{SVG}path") if one.get("class") == "lg"]
    assert len(lines) == 2
    # the line of instances is at as many heights as there were numbers of them
    heights = {word.partition("H")[0] for word in (lines[0] or "").split("V")[1:]}
    assert len(heights) == len(set(counts(moments)))
    assert sum(one.get("class") == "t" for one in root.iter(f"{SVG}path")) == 3  # least, most, target


def test_the_examples_policy_and_trace(tmp_path: pathlib.Path) -> None:
    files = [str(EXAMPLES / "autoscale.yaml"), "--trace", str(EXAMPLES / "autoscale-trace.jsonl")]
    said = CliRunner().invoke(autoscale, ["simulate", *files, "--svg", str(tmp_path / "a.svg")])
    assert said.exit_code == 0, said.output
    assert "gen=2: waiting for a worker" in said.output
    page = (EXAMPLES.parent / "docs" / "scaling.md").read_text()
    assert [line for line in said.stdout.splitlines() if line and f"    {line}" not in page] == [], "docs/scaling.md shows another output"
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    told = json.loads(CliRunner().invoke(autoscale, ["simulate", *files, "--json"]).stdout)
    assert set(told["roles"]) == {CONTEXT, GENERATION}
    assert told["roles"][GENERATION]["changes"] >= 2
    assert told["moments"][-1][GENERATION]["instances"] == 1
    assert told["roles"][GENERATION]["instance_hours"] < told["roles"][GENERATION]["instance_hours_at_most"]


def test_what_cannot_be_simulated() -> None:
    topology = spec.load(EXAMPLES / "autoscale.yaml")
    assert models.models(topology, load([1]), {}, {})[GENERATION].slots == 4
    with pytest.raises(BadInput, match="--busy gen=SECONDS"):
        models.models(topology, [{CONTEXT: Seen(1, 1, 1, completed=1, busy_s=1)}], {}, {})
    with pytest.raises(BadInput, match="no map `autoscale`"):
        models.models(spec.load(EXAMPLES / "laptop.yaml"), load([1]), {}, {})
    with pytest.raises(BadInput, match="--busy gen=x: needed ctx=N or gen=N, where N is a number above 0"):
        models.per_role(["gen=x"], "--busy")
    for half in ("gen=0.5", "gen=1.9", "gen=0"):  # half a slot serves nobody, and was none
        with pytest.raises(BadInput, match=f"--slots {half}: .* a whole number above 0"):
            models.per_role([half], "--slots", "a whole number")
    assert outcome.sums(run([2] * 10, Target(1, 2, queue_s=1.0)), GENERATION, Model(1, 1, 1, 1, Target(1, 2, queue_s=1.0)))["changes"] == 0
