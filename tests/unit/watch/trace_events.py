"""Event logs as the gateway writes them."""

from __future__ import annotations

from typing import Any

from disagg_launch.plan import Plan
from disagg_launch.watch.happened import Event

BEGAN_AT = 1000.0


def told(t: float, event: str, instance: str = "", **more: Any) -> Event:
    return {"at": BEGAN_AT + t, "t": t, "event": event, "instance": instance, "text": "", **more}


def start_up(plan: Plan, pace_s: float = 1.0, slurm: bool = False, opened: bool = True) -> list[Event]:
    """Instance n is started at 0.1 s, has its role at 0.5 s and is healthy n * pace_s after 1 s.

    The router is open 0.5 s after the last.
    """
    out = [told(0.0, "begun")]
    for number, one in enumerate(plan.instances):
        out.append(told(0.1, "stage", one.name, stage="started", life=1))
        out += [told(0.4, "rank", one.name, rank=r.rank, ranks=[r.rank], host="n0", pid=9) for r in plan.ranks_of(one.name)]
        out.append(told(0.5, "stage", one.name, stage="role taken", life=1))
        out.append(told(1 + number * pace_s, "stage", one.name, stage="healthy", life=1))
    last_s = 1 + (len(plan.instances) - 1) * pace_s
    if slurm:
        out += [told(-30.0, "submitted", job="7"), told(-2.0, "allocated", job="7")]
    if opened:
        out += [told(last_s + 0.4, "stage", "router", stage="healthy", life=1), told(last_s + 0.5, "router", "router", stage="open")]
    return out
