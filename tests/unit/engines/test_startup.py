"""The time that a deployment gets to become ready: reckoned from engine, nodes and weights, and never when it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_view import EXAMPLES, front_door, marked, planned, words, worker

from disagg_launch import lint, render
from disagg_launch.engines import startup
from disagg_launch.launch import bind, from_json
from disagg_launch.weights import on_disk

HEAD = "model: /models/big\ncache_transceiver_config: {backend: DEFAULT}\ndisable_overlap_scheduler: true\n"
PAIR = "context_servers: {tensor_parallel_size: 8}\ngeneration_servers: {tensor_parallel_size: 16}\n"
CLUSTER = "cluster: {gpus_per_node: 8}\n"
BIG = 700_000_000_000


def topology(engine: str, more: str = "") -> str:
    """Two instances on three nodes."""
    head = HEAD if engine == "trtllm" else "model: /models/big\n"
    return f"{head}{PAIR}{CLUSTER}engine: {{name: {engine}}}\n{more}"


@pytest.mark.parametrize(
    ("engine", "weights", "limit_s", "why"),
    [
        ("trtllm", BIG, 3420, "600 s for a start of trtllm + 700.0 GB of /models/big at 0.25 GB/s + 2 more nodes x 10 s"),
        ("vllm", 0, 620, "600 s for a start of vllm + 2 more nodes x 10 s"),
        ("sglang", 0, 1820, "1800 s for a start of sglang + 2 more nodes x 10 s"),
        ("reference", BIG, 600, "the default"),
    ],
)
def test_reckoned(engine: str, weights: int, limit_s: float, why: str) -> None:
    made, plan = planned(topology(engine))
    assert startup.limit(made, plan.node_count, lambda model: weights) == startup.Limit(limit_s, why)


def test_what_is_written_wins() -> None:
    made, plan = planned(topology("trtllm", "readiness: {limit_s: 30}\n"))
    assert startup.limit(made, plan.node_count, lambda model: BIG) == startup.Limit(30, "readiness.limit_s as written")


def test_the_larger_model_counts_and_only_of_roles_that_are_there() -> None:
    text = "engine: {name: vllm}\ncontext_servers: {model: a, num_instances: 0}\ngeneration_servers: {model: b}\n"
    made, _ = planned(text)
    assert startup.heaviest(made, {"a": 9, "b": 5}.__getitem__) == (5, "b")
    made, _ = planned(text.replace("0}", "1}"))
    assert startup.heaviest(made, {"a": 9, "b": 5}.__getitem__) == (9, "a")


def test_the_run_folder_says_the_sum_and_engines_do_not_give_up_before_us() -> None:
    for engine, limit_s in (("trtllm", 3420), ("vllm", 3420)):
        made, plan = planned(topology(engine, f"router: {{name: {engine}}}\n"))
        files = {one.path: str(one.text) for one in render.render(made, plan, "slurm", "python3", lambda model: BIG)}
        launch = from_json(files["launch.json"])
        assert launch.readiness.limit_s == limit_s
        assert "700.0 GB of /models/big" in json.loads(files["launch.json"])["readiness"]["limit_why"]
        if engine == "trtllm":
            argv = [bind(word, marked) for word in launch.router.argv]
            assert argv[argv.index("-t") + 1] == str(limit_s)
        else:
            assert {one.environ["VLLM_ENGINE_READY_TIMEOUT_S"] for one in launch.workers} == {str(limit_s)}


def test_where_nothing_is_known_commands_stay_as_the_guide_has_them() -> None:
    made, plan = planned(EXAMPLES / "seed/standard.yaml")
    assert startup.timed(made, plan.node_count, startup.nothing_at_hand)[0] is made
    assert "-t" not in words(front_door(made, plan)[0].argv)
    made, plan = planned(EXAMPLES / "engines/vllm-nixl.yaml")
    assert "VLLM_ENGINE_READY_TIMEOUT_S" not in worker(made, plan, "ctx0").environ


def test_a_limit_of_the_users_that_is_shorter_does_not_shorten_the_engines() -> None:
    made, plan = planned(topology("vllm", "readiness: {limit_s: 30}\n"))
    assert "VLLM_ENGINE_READY_TIMEOUT_S" not in worker(made, plan, "ctx0").environ


def test_weights_on_disk(tmp_path: Path) -> None:
    assert on_disk(str(tmp_path)) == on_disk("meta-llama/not-downloaded-yet") == 0
    (tmp_path / "a.bin").write_bytes(b"1" * 7)
    assert on_disk(str(tmp_path)) == on_disk(str(tmp_path / "a.bin")) == 7
    for name in ("m-1.safetensors", "m-2.safetensors"):
        (tmp_path / name).write_bytes(b"1" * 5)
    assert on_disk(str(tmp_path)) == 10, "the same weights in another format are not loaded too"
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 700}}')
    assert on_disk(str(tmp_path)) == 700, "files that git has not fetched are a few bytes each"
    (tmp_path / "model.safetensors.index.json").write_text("[")
    assert on_disk(str(tmp_path)) == 10


def test_a_job_shorter_than_the_reckoned_limit_is_warned_of() -> None:
    made, plan = planned(topology("trtllm", "slurm: {time: '30'}\n"))
    said = {one.number: one.text for one in lint.check(made, plan, weights=lambda model: BIG)}
    assert "found 30; readiness.limit_s is 3420 s: 600 s for a start of trtllm + 700.0 GB" in said["DL041"]
    assert "DL040" not in said
