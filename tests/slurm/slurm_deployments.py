"""A deployment on the test cluster as a user has it: the command line on the login host, a topology file, and the run folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from slurm_hosts import Cluster, wait_for

WORKER = Path(__file__).with_name("worker.py")
SERVE = ["python3", str(WORKER), "--host", "{host}", "--port", "{port}"]
READY_S = 90


def topology(**changes: Any) -> dict[str, Any]:
    """Two context instances and one generation instance of plain workers; each change replaces a top-level map or is merged into it."""
    out: dict[str, Any] = {
        "name": "test",
        "model": "none",
        "engine": {"name": "command"},
        "cluster": {"nodes": 3, "gpus_per_node": 2, "policy": "spread"},
        "context_servers": {"num_instances": 2, "tensor_parallel_size": 2, "command": SERVE},
        "generation_servers": {"num_instances": 1, "tensor_parallel_size": 2, "command": SERVE},
        "router": {"name": "command", "command": SERVE},
        "slurm": {"site": "testcluster", "time": "20"},
        "readiness": {"limit_s": READY_S},
    }
    for key, value in changes.items():
        out[key] = {**out[key], **value} if isinstance(out.get(key), dict) and isinstance(value, dict) else value
    return out


def engines(**changes: Any) -> dict[str, Any]:
    """One context and one generation server of the embedded engine, each with a node of its own; they register at the front door."""
    spec = topology(
        model="random:7",
        engine={"name": "reference", "python": sys.executable},
        cluster={"gpus_per_node": 1},
        slurm={"mpi": "pmi2"},
        disagg_cluster={"cluster_uri": "auto", "heartbeat_interval_sec": 1, "inactive_timeout_sec": 3},
    )
    for role in ("context_servers", "generation_servers"):
        spec[role] = {"num_instances": 1}
    del spec["router"], spec["cluster"]["nodes"], spec["cluster"]["policy"]
    for key, value in changes.items():
        spec[key] = {**spec.get(key, {}), **value}
    return spec


class Deployment:
    """One topology file, from `submit` to its end."""

    def __init__(self, cluster: Cluster, folder: Path, spec: dict[str, Any]) -> None:
        self.cluster, self.folder = cluster, folder
        self.spec = folder / f"{spec['name']}.yaml"
        self.spec.write_text(yaml.safe_dump(spec))
        self.run = folder / "runs" / spec["name"]
        self.job = ""

    def command(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `disagg-launch ...` on the login host, in the test's folder."""
        done = self.cluster.login(sys.executable, "-m", "disagg_launch", *argv, cwd=self.folder, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def submit(self) -> Deployment:
        """Send it; its job id is all that was printed."""
        said = self.command("submit", str(self.spec), "--run", str(self.run)).stdout
        self.job = said.strip()
        assert said == f"{int(self.job)}\n"
        return self

    def ready(self, limit_s: float = READY_S) -> Deployment:
        """Wait until the front door is open."""
        self.url = self.command("wait", str(self.run), "--limit-s", str(limit_s)).stdout.strip()
        return self

    def fails(self) -> dict[str, Any]:
        """Wait until it has failed; the verdict."""
        self.command("wait", str(self.run), "--limit-s", str(READY_S), check=False)
        wait_for(lambda: (self.run / "state/verdict.json").exists(), 30, "for a verdict")
        found: dict[str, Any] = json.loads((self.run / "state/verdict.json").read_text())
        assert found["state"] == "failed", found
        return found

    def status(self) -> dict[str, Any]:
        """state/status.json as it is now."""
        found: dict[str, Any] = json.loads((self.run / "state/status.json").read_text())
        return found

    def instance(self, name: str) -> dict[str, Any]:
        """What the status says of an instance."""
        return next(one for one in self.status()["instances"] if one["name"] == name)

    def ask(self, name: str, path: str = "/who", check: bool = True) -> dict[str, Any]:
        """An instance's answer, asked from the login host; {} when it did not answer and need not."""
        url = self.url if name == "router" else self.instance(name)["url"]
        done = self.cluster.login("curl", "-sS", "--max-time", "5", url + path, check=check)
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def plan(self) -> dict[str, Any]:
        """plan.json as it is now."""
        found: dict[str, Any] = json.loads((self.run / "plan.json").read_text())
        return found

    def hosts(self) -> list[str]:
        """The hosts that the gateway bound the plan's nodes to."""
        found: list[str] = json.loads((self.run / "binding.json").read_text())["hosts"]
        return found

    def comes_back(self, name: str, limit_s: float = READY_S) -> float:
        """Seconds until an instance is healthy after a restart."""
        began = time.monotonic()
        wait_for(
            lambda: self.instance(name)["restarts"] >= 1 and self.instance(name)["stage"] == "routed", limit_s, f"for {name} to come back"
        )
        return time.monotonic() - began

    def stamp(self, name: str, text: str) -> float:
        """When a log said something first, in seconds since 1970."""
        line = next(line for line in self.log(name).splitlines() if text in line)
        return datetime.fromisoformat(re.search(r"20\S+Z", line)[0].replace("Z", "+00:00")).timestamp()  # type: ignore[index]

    def cancel(self) -> str:
        """End it; what Slurm says of the job then."""
        return self.command("cancel", str(self.run)).stdout

    def log(self, name: str) -> str:
        """A log of the run."""
        return (self.run / "logs" / f"{name}.log").read_text()
