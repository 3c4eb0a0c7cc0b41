"""What a rehearsal is told, and what it tells: scenarios with their complaints, the report, and what counts as missed."""

import pytest

from disagg_launch import place, spec
from disagg_launch.errors import BadInput
from disagg_launch.plan import to_json
from disagg_launch.rehearse import report, scenario, stage
from disagg_launch.rehearse.report import Seen
from disagg_launch.rehearse.scenario import Expect

TOPOLOGY = """
model: /models/m
context_servers: {num_instances: 2, tensor_parallel_size: 2}
generation_servers: {num_instances: 1}
engine: {name: trtllm}
hostname: 0.0.0.0
env: {SECRET: s}
slurm: {partition: gpu}
restart: {on_failure: restart}
"""
SERVED = {"right": 5, "error": 0, "wrong": 0, "hung": 0}


def test_every_shipped_scenario_can_be_read_and_says_what_it_shows():
    assert all(one.about for one in scenario.shipped().values())
    assert {"calm", "slow-start", "liar", "dies-loading", "hangs-loading", "loses-port", "drops-kv"} <= set(scenario.shipped())


def test_all_that_is_wrong_with_a_scenario_is_told_with_its_place():
    with pytest.raises(BadInput) as wrong:
        scenario.parse("serve_s: -1\nfaults:\n  - {where: ctx0, do: dye}\n  - {where: gen0, do: die, at: lunch, cod: 3}\n", "bad.yaml")
    said = str(wrong.value)
    for text in ("bad.yaml:1:10: serve_s: ", "bad.yaml:3:23: faults[0].do: ", "did you mean die?", "bad.yaml:4:32: ", "bad.yaml:4:39: "):
        assert text in said


def test_a_fault_for_nobody_is_refused():
    plan = place.place(spec.loads(TOPOLOGY))
    lost = scenario.parse("faults: [{where: 'ctx*', do: die, rank: 2}, {where: gen1, do: hang}]", "s.yaml")
    with pytest.raises(BadInput, match=r"faults\[0\].*rank 2 is nobody.*\n.*faults\[1\].*gen1.*nobody"):
        lost.script(plan)


def test_a_script_holds_each_instances_own_faults_and_is_the_same_every_time():
    plan = place.place(spec.loads(TOPOLOGY))
    made = scenario.parse("faults: [{where: 'ctx*', do: die}]", "s.yaml").script(plan)
    assert [[f["do"] for f in made["instances"][name]["faults"]] for name in ("ctx0", "ctx1", "gen0")] == [["die"], ["die"], []]
    assert made == scenario.parse("faults: [{where: 'ctx*', do: die}]", "s.yaml").script(plan)


def test_a_rehearsal_keeps_the_plan_and_the_policy_and_leaves_cluster_environment_and_engine_at_home():
    topology = spec.loads(TOPOLOGY)
    plan = place.place(topology)
    files = {one.path: one.text for one in stage.files(topology, plan, scenario.Scenario())}
    assert files["plan.json"] == to_json(plan)
    launch = files["launch.json"]
    assert '"on_failure": "restart"' in launch and "trtllm-serve" not in launch and "SECRET" not in launch
    assert "0.0.0.0" not in launch and not any("sbatch" in path for path in files)


def events(*rows):
    return [{"t": t, "event": event, "instance": name, **more} for t, event, name, more in rows]


def test_what_many_do_in_one_second_is_told_once():
    rows = [(1.1 + i / 100, "stage", f"ctx{i}", {"stage": "healthy"}) for i in range(9)]
    rows += [(1.5, "stage", "ctx0", {"stage": "loading", "percent": 40}), (1.6, "rank", "ctx0", {"rank": 3})]
    told = list(report.lines(events((0.2, "stage", "gen0", {"stage": "started"}), *rows, (2.9, "verdict", "gen0", {"text": "gen0 ended"}))))
    assert told == ["    0 s  gen0: started", "    1 s  9 instances: healthy", "    2 s  gen0: verdict gen0 ended"]


@pytest.mark.parametrize(
    ("expect", "seen", "words"),
    [
        (Expect(), Seen(1, 1, 143, {"state": "stopped"}, ready_s=1.0, requests=SERVED), []),
        (Expect(), Seen(1, 1, 6, {"state": "failed", "reason": "ctx0 ended"}), ["expected it to be ready"]),
        (Expect(verdict="failed"), Seen(1, 1, 143, {"state": "stopped"}, ready_s=1.0, requests=SERVED), ["it became ready"]),
        (Expect(verdict="failed", instance="gen0"), Seen(1, 1, 6, {"state": "failed", "instance": "ctx0"}), ["expected gen0 to be blamed"]),
        (Expect(restarted=("ctx0",)), Seen(1, 1, 143, {}, ready_s=1.0, requests=SERVED), ["expected ctx0 to be restarted"]),
        (Expect(failed_requests=1), Seen(1, 1, 143, {}, ready_s=1.0, requests={**SERVED, "error": 2}), ["at most 1"]),
        (
            Expect(failed_requests=9),
            Seen(1, 1, 143, {}, ready_s=1.0, requests={**SERVED, "wrong": 1, "hung": 1}),
            ["1 requests ended wrong", "hung"],
        ),
    ],
)
def test_what_counts_as_missed(expect, seen, words):
    wrong = report.missed(expect, seen)
    assert len(wrong) == len(words)
    for word, said in zip(words, wrong):
        assert word in said
