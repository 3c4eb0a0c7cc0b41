"""What the tasks of an instance on several nodes really become: the rendered step's command, with a program that only says its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_view import EXAMPLES, planned

from disagg_launch import render


def task_of(run: Path, step: str, task: int, tasks: int, digest: str) -> subprocess.CompletedProcess[str]:
    """One task of a step, from its bootstrap to its end."""
    environ = {
        "PATH": f"{run}:{os.environ['PATH']}",
        "DISAGG_TASK": str(task),
        "DISAGG_TASKS": str(tasks),
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
    }
    argv = [sys.executable, str(run / "runtime.pyz"), "rank", "--launcher=local", f"--step={step}", f"--digest={digest}"]
    return subprocess.run(argv, cwd=run, env=environ, capture_output=True, text=True, timeout=60, check=False)


def became(run: Path, step: str, task: int, tasks: int, digest: str) -> list[str]:
    """The words of one task, the environment's interesting part last."""
    done = task_of(run, step, task, tasks, digest)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_each_node_has_its_own_number_and_address(engine: str, tmp_path: Path) -> None:
    topology, plan = planned(EXAMPLES / f"engines/{engine}-nodes.yaml")
    run = tmp_path / "run"
    render.write(render.render(topology, plan, "local", "python3"), run)
    hosts = [f"node{number}" for number in range(4)]
    addresses = [f"10.9.0.{number}" for number in range(4)]
    (run / "binding.json").write_text(json.dumps({"hosts": hosts, "addresses": addresses}))
    program = run / engine
    program.write_text(
        '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\necho "$VLLM_HOST_IP $VLLM_NIXL_SIDE_CHANNEL_HOST $CUDA_VISIBLE_DEVICES"\n'
    )
    program.chmod(0o755)
    first, second = (became(run, "gen0", task, 2, plan.digest) for task in (0, 1))
    assert [words[words.index("--node-rank") + 1] for words in (first, second)] == ["0", "1"]
    meeting = {"vllm": "--master-addr", "sglang": "--dist-init-addr"}[engine]
    # gen0 lies on nodes 2 and 3, and meets on the first of them
    assert {words[words.index(meeting) + 1].split(":")[0] for words in (first, second)} == {"10.9.0.2"}
    if engine == "vllm":
        assert ["--headless" in words for words in (first, second)] == [False, True]
        assert [words[-1] for words in (first, second)] == ["10.9.0.2 10.9.0.2 0,1,2,3", "10.9.0.3 10.9.0.3 0,1,2,3"]
    else:
        assert [words[words.index("--host") + 1] for words in (first, second)] == ["10.9.0.2", "10.9.0.3"]


@pytest.mark.parametrize(
    ("example", "backend", "step", "tasks", "wrapper", "missing"),
    [
        ("engines/vllm-ray.yaml", "mpirun", "world", 3, "ray", "vllm"),
        ("seed/multi-node.yaml", "local", "ctx0", 8, "trtllm-llmapi-launch", "trtllm-serve"),
    ],
)
def test_an_engine_that_is_missing_behind_its_wrapper_is_named_before_anything_starts(
    example: str, backend: str, step: str, tasks: int, wrapper: str, missing: str, tmp_path: Path
) -> None:
    text = (EXAMPLES / example).read_text()
    topology, plan = planned(text + "mpi: {hosts: [127.0.0.1, 127.0.0.2, 127.0.0.3]}\n")
    run = tmp_path / "run"
    render.write(render.render(topology, plan, backend, "python3"), run)
    (run / wrapper).write_text("#!/bin/sh\n")
    (run / wrapper).chmod(0o755)
    done = task_of(run, step, 0, tasks, plan.digest)
    assert done.returncode == 4, done.stderr
    assert f"the worker's program '{missing}' was not found" in done.stderr
    assert "(engine.program, or command)" in done.stderr
