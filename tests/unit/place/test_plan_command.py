"""`plan` and `diff` as a user calls them."""

import json
import subprocess
import sys

import pytest

from disagg_launch import plan as plans
from disagg_launch.cli import COMMANDS

TOPOLOGY = """
model: /models/small
hostname: 0.0.0.0
context_servers: {num_instances: 2, tensor_parallel_size: 2}
generation_servers: {num_instances: 1, tensor_parallel_size: 2, pipeline_parallel_size: 2}
engine: {name: reference}
cluster: {gpus_per_node: 4}
"""


@pytest.fixture
def topology(tmp_path):
    def write(text=TOPOLOGY, name="spec.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def call(*args):
    return subprocess.run(
        [sys.executable, "-c", "from disagg_launch.cli import main; main()", *map(str, args)], capture_output=True, text=True, timeout=60
    )


def test_json_is_plan_json_and_the_same_every_time(topology):
    first, second = (call("plan", topology(), "--json") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    plan = plans.from_json(first.stdout)
    assert plans.to_json(plan) == first.stdout
    assert [(one.name, one.nodes, one.port) for one in plan.instances] == [("ctx0", (0,), 8001), ("ctx1", (0,), 8002), ("gen0", (1,), 8003)]
    assert list(json.loads(first.stdout)["ranks"][0]) == ["rank", "instance", "role", "instance_rank", "tp_rank", "pp_rank", "node", "gpu"]


def test_text_is_plain_and_narrow_when_piped(topology):
    done = call("plan", topology(), "--explain")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    picture = done.stdout.splitlines()
    assert "node 0  [ctx0 tp0-1 pp0][ctx1 tp0-1 pp0]" in picture
    assert "node 1  [gen0 tp0-1 pp0-1              ]" in picture
    assert max(len(line) for line in picture[:20]) <= 80
    assert " *pack            2 nodes" in done.stdout


@pytest.mark.parametrize("columns", ["0", "-5", "wide"])
def test_a_width_that_is_none_hides_nothing(topology, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert "ctx0" in call("plan", topology()).stdout


def test_what_does_not_fit_is_refused_with_the_arithmetic(topology):
    done = call("plan", topology(TOPOLOGY.replace("gpus_per_node: 4", "gpus_per_node: 4, nodes: 1")))
    assert done.returncode == 3
    assert "2 context x 2 GPUs (tp 2) + 1 generation x 4 GPUs (tp 2 x pp 2) = 8 GPUs" in done.stderr
    assert "1 node x 4 GPUs = 4 GPUs" in done.stderr
    assert "cluster.nodes: 2" in done.stderr
    assert done.stdout == ""


def test_diff_of_files_and_plans(topology, tmp_path):
    before = topology()
    saved = tmp_path / "plan.json"
    saved.write_text(call("plan", before, "--json").stdout)
    assert call("diff", saved, before).stdout.splitlines()[-1] == "the same plan"
    after = topology(TOPOLOGY.replace("num_instances: 2", "num_instances: 3"), "more.yaml")
    lines = call("diff", saved, after).stdout.splitlines()
    assert "+ ctx2: 2 ranks on node 1" in lines
    assert "~ gen0 ranks 0-3: node 1 GPUs 0-3 -> node 2 GPUs 0-3" in lines
    assert "~ gen0: port 8003 -> 8004" in lines
    assert "+ node 2" in lines
    assert lines[-1] == "4 ranks move, 4 stay, 0 go, 2 come; 2 -> 3 nodes"


def test_diff_of_something_else_is_bad_use(topology, tmp_path):
    other = tmp_path / "plan.json"
    other.write_text("{}")
    assert call("diff", other, topology()).returncode == 2


@pytest.mark.parametrize("name", ["plan", "diff", "layout"])
def test_the_command_table_names_these(name):
    assert name in COMMANDS
