"""Snapshots of deployments of any size."""

from __future__ import annotations

from typing import Any

from pages import page, worker

from disagg_launch.plan import CONTEXT, GENERATION, PREFIX, Instance, Plan, Rank
from disagg_launch.watch import figures
from disagg_launch.watch.happened import Happened
from disagg_launch.watch.shape import Snapshot
from disagg_launch.watch.snapshot import Known, snapshot


def plan_of(ctx: int, gen: int, gpus_per_node: int = 8) -> Plan:
    """Context instances of one rank and generation instances of two, packed onto nodes."""
    instances, ranks = [], []
    for number in range(ctx + gen):
        role = CONTEXT if number < ctx else GENERATION
        name, size, first = f"{PREFIX[role]}{number - ctx * (role == GENERATION)}", 1 + (role == GENERATION), len(ranks)
        ranks += [Rank(first + k, name, role, k, k, 0, (first + k) // gpus_per_node, (first + k) % gpus_per_node) for k in range(size)]
        nodes = tuple(dict.fromkeys(r.node for r in ranks[first:]))
        instances.append(Instance(name, role, first, size, nodes, 8001 + number))
    return Plan("fleet", ranks[-1].node + 1 if ranks else 1, gpus_per_node, tuple(instances), tuple(ranks)).sealed()


def status_of(plan: Plan, state: str = "ready", **rows: dict[str, Any]) -> dict[str, Any]:
    """state/status.json of a healthy deployment, but for what `rows` says of an instance."""
    out = []
    for one in plan.instances:
        row = {"name": one.name, "role": one.role, "url": f"http://127.0.0.1:{one.port}", "stage": "healthy", "detail": "", "ended": ""}
        ranks = [{"rank": r.rank, "host": f"n{r.node}", "pid": 100 + r.rank} for r in plan.ranks_of(one.name)]
        out.append({**row, "last_line": f"{one.name} says so", "restarts": 0, "ranks": ranks, **rows.get(one.name, {})})
    router = {"name": "router", "url": "http://localhost:8000", "stage": "healthy", "ended": "", "restarts": 0}
    return {"state": state, "job": "", "router": router, "instances": out, "resting": []}


def shot_of(ctx: int = 2, gen: int = 1, state: str = "ready", events: int = 0, **rows: dict[str, Any]) -> Snapshot:
    """A snapshot at second 1000 of a deployment that began at 900; the router answers when it is ready."""
    plan = plan_of(ctx, gen)
    happened = Happened()
    told = [{"at": 900.0 + n, "t": float(n), "event": "stage", "instance": "ctx0", "stage": f"s{n}", "text": ""} for n in range(events)]
    happened.add([{"at": 900.0, "t": 0.0, "event": "begun", "instance": "", "text": "plan"}, *told])
    workers = [worker(f"127.0.0.1:{i.port}", i.role) for i in plan.instances]
    seen = figures.read(page(requests=7, workers=workers)) if state == "ready" else None
    return snapshot(Known(plan, [f"n{n}" for n in range(plan.node_count)], status_of(plan, state, **rows), happened, seen), 1000.0)
