"""Every scenario that comes along, rehearsed with real processes: the launcher does what the scenario expects."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from disagg_launch.rehearse import scenario

TOPOLOGY = """
model: none
port: {port}
context_servers: {{num_instances: 2, tensor_parallel_size: 2}}
generation_servers: {{num_instances: 2}}
engine: {{name: command, command: [not-there]}}
cluster: {{gpus_per_node: 8, base_port: {base}}}
readiness: {{stall_s: 4}}
restart: {{on_failure: restart, backoff_s: 0.2, grace_s: 2, hang_s: 4}}
"""


def rehearse(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    base = random.randrange(12_000, 31_000)
    spec = folder / "spec.yaml"
    spec.write_text(TOPOLOGY.format(port=base, base=base + 1))
    command = [sys.executable, "-m", "disagg_launch", "rehearse", str(spec), "--run", str(folder / "run"), *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=240, check=False)


def test_the_launcher_does_as_every_scenario_expects(tmp_path: Path) -> None:
    def one(name: str) -> tuple[str, subprocess.CompletedProcess[str]]:
        folder = tmp_path / name
        folder.mkdir()
        return name, rehearse(folder, "--scenario", name, "--json")

    with ThreadPoolExecutor(3) as pool:  # they wait most of the time
        for name, done in pool.map(one, scenario.shipped()):
            assert done.returncode == 0, f"{name}: {done.stderr}"
            seen = json.loads(done.stdout)
            assert (seen["instances"], seen["ranks"]) == (4, 6)
            assert {"begun", "verdict", "stopped"} <= {event["event"] for event in seen["events"]}


def test_a_rehearsal_that_goes_otherwise_says_so(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("load_s: [0.1, 0.2]\nserve_s: 0.5\nexpect: {verdict: failed, instance: gen1}\n")
    done = rehearse(tmp_path, "--scenario", str(wrong))
    assert done.returncode == 1
    assert "expected a failed verdict; it became ready" in done.stderr
    assert "right, 0 error, 0 wrong, 0 hung" in done.stdout
