"""Instances of further Slurm jobs count like those of the first, as `scale` counts them: running ones, and those that are to run."""

from __future__ import annotations

import json
import pathlib
from types import SimpleNamespace
from typing import Any

from disagg_launch import place, spec
from disagg_launch.plan import CONTEXT, GENERATION, to_json
from disagg_launch.runtime.further import Further

TOPOLOGY = """
model: random:7
engine: {name: reference}
context_servers: {num_instances: 1}
generation_servers: {num_instances: 3}
cluster: {gpus_per_node: 4}
"""


def test_further_jobs_count_unless_they_are_over(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "further" / "1"
    (folder / "state").mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job": "7"}))
    (folder / "plan.json").write_text(to_json(place.place(spec.loads(TOPOLOGY))))
    gateway: Any = SimpleNamespace(run=str(tmp_path))
    further = Further(gateway)

    def counts() -> tuple[int, int]:
        further.seen = further.jobs()
        return further.count(CONTEXT), further.count(GENERATION)

    assert counts() == (1, 3), "it waits in the queue"
    status = folder / "state" / "status.json"
    status.write_text(json.dumps({"job": "7", "state": "ready", "resting": ["gen2"], "instances": []}))
    assert counts() == (1, 2)
    status.write_text(json.dumps({"job": "7", "state": "stopped", "resting": [], "instances": []}))
    assert counts() == (0, 0)
