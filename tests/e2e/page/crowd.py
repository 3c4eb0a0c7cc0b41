"""A run folder as a gateway of 500 instances on 250 nodes would have left it: a real plan, and what the gateway writes beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SPEC = """\
name: many
hostname: localhost
port: {port}
context_servers: {{num_instances: 250, tensor_parallel_size: 4}}
generation_servers: {{num_instances: 250, tensor_parallel_size: 2, pipeline_parallel_size: 2}}
engine: {{name: command, command: ["true"]}}
cluster: {{nodes: 250, gpus_per_node: 8}}
"""
ROUTER = "hostname: localhost\nport: {port}\nfront_door: {{run_folder: {run}}}\n"
STAGES = (("started", 0.1), ("role taken", 2.0), ("loading", 4.0), ("listening", 30.0), ("healthy", 33.0))
TROUBLE = {"ctx17": ("ended", 0), "gen200": ("loading", 43), "gen201": ("loading", 81), "ctx99": ("role taken", None)}


def crowd(folder: Path, port: int) -> tuple[Path, Path]:
    """(run folder, configuration of a router for it). The router knows no worker, so nobody is probed."""
    (folder / "many.yaml").write_text(SPEC.format(port=port))
    run = folder / "run"
    subprocess.run([sys.executable, "-m", "disagg_launch", "render", str(folder / "many.yaml"), "--run", str(run)], check=True)
    plan = json.loads((run / "plan.json").read_text())
    (run / "state").mkdir()
    (run / "state" / "status.json").write_text(json.dumps(status(plan, port)))
    (run / "state" / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events(plan)))
    (run / "logs" / "gateway.log").write_text("2026-01-02T03:04:05.678Z plan of many: 500 steps\n")
    (folder / "router.yaml").write_text(ROUTER.format(port=port, run=run))
    return run, folder / "router.yaml"


def status(plan: dict[str, Any], port: int) -> dict[str, Any]:
    """state/status.json: all healthy but those in TROUBLE."""
    rows = []
    for i, one in enumerate(plan["instances"]):
        stage, percent = TROUBLE.get(one["name"], ("healthy", None))
        ended = f"rank {one['first_rank']} on host{one['nodes'][0]}: signal SIGKILL" if stage == "ended" else ""
        first = one["first_rank"]
        ranks = [{"rank": r, "host": f"host{plan['ranks'][r]['node']:03d}", "pid": 4000 + r} for r in range(first, first + one["size"])]
        row = {"name": one["name"], "role": one["role"], "url": f"http://host{one['nodes'][0]:03d}:{one['port']}", "ended": ended}
        row |= {
            "stage": "started" if ended else stage,
            "percent": percent,
            "detail": "",
            "last_line": "loading shards",
            "restarts": i % 97 == 0,
        }
        rows.append({**row, "restarts": int(i % 97 == 0), "log": "", "ranks": ranks})
    router = {"name": "router", "stage": "healthy", "url": f"http://localhost:{port}", "ended": "", "restarts": 0}
    return {"name": "many", "digest": plan["digest"], "state": "ready", "router": router, "instances": rows, "resting": []}


def events(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """state/events.jsonl: a start-up of about 80 seconds."""
    began = time.time() - 600
    out: list[dict[str, Any]] = [{"event": "begun", "instances": 500, "ranks": 2000}]
    for i, one in enumerate(plan["instances"]):
        slow = 1 + (i * 7919 % 100) / 80
        for stage, at in STAGES:
            out.append({"t": at * slow, "event": "stage", "instance": one["name"], "stage": stage, "life": 1})
            if one["name"] in TROUBLE and stage == TROUBLE[one["name"]][0]:
                break
    out.append({"t": 76.0, "event": "router", "instance": "router", "stage": "open"})
    out.append({"t": 400.0, "event": "ended", "instance": "ctx17", "text": "rank 68 on host008: signal SIGKILL", "life": 1, "code": 6})
    return [
        {"at": began + one.get("t", 0.0), "t": 0.0, "instance": "", "text": "", **one} for one in sorted(out, key=lambda e: e.get("t", 0.0))
    ]
