"""One value of everything: plan, status, events and the router's figures at one moment. Pure; `shape.Snapshot` describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from disagg_launch.layouts.bars import gpus_of
from disagg_launch.plan import Instance, Plan
from disagg_launch.watch import figures as pages
from disagg_launch.watch.figures import Figures, WorkerFigures
from disagg_launch.watch.happened import Happened, Standing
from disagg_launch.watch.shape import SCHEMA, InstanceRow, Node, OtherRow, RankRow, RouterRow, Snapshot, Spread

SHOWN_EVENTS = 50
ENDED, RESTING, STOPPED = "ended", "resting", "stopped"
NOT_RUNNING = (ENDED, RESTING, STOPPED)
OVER = ("stopped", "failed", "ended")
Status = Mapping[str, Any]


class Known(NamedTuple):
    """What a snapshot is made of.

    `hosts` by node number, () before nodes are given; `status` is state/status.json or what stands for it (`state` at least);
    `figures` is None when the router does not answer; `verdict` is state/verdict.json, or None.
    """

    plan: Plan
    hosts: Sequence[str]
    status: Status
    happened: Happened
    figures: Optional[Figures] = None
    verdict: Optional[dict[str, Any]] = None


def snapshot(known: Known, at: float, before: Optional[Snapshot] = None) -> Snapshot:
    """The deployment at the unix time `at`; rates and spreads are of the time since `before`."""
    plan, status = known.plan, known.status
    rows = {one["name"]: one for one in status.get("instances", ())}
    router = _router(status.get("router") or {}, known.figures)
    made: Snapshot = {
        "schema": SCHEMA,
        "name": plan.name,
        "digest": plan.digest,
        "state": status["state"],
        "url": (status.get("router") or {}).get("url", ""),
        "job": status.get("job") or "",
        "at": at,
        "began_at": known.happened.began_at,
        "ready_s": _ready_s(known.happened),
        "answers": known.figures is not None,
        "nodes": _nodes(plan, known.hosts),
        "instances": [_instance(known, one, rows.get(one.name, {}), at) for one in plan.instances],
        "others": _others(known),
        "router": router,
        "events": list(known.happened.last)[-SHOWN_EVENTS:],
        "verdict": known.verdict,
    }
    return moving(before, made)


def moving(before: Optional[Snapshot], after: Snapshot) -> Snapshot:
    """`after` with its rates and spreads: those between the two snapshots, if the router's figures were had both times."""
    new = after["router"]
    old = before["router"] if before and before["answers"] and after["answers"] else None
    elapsed_s = after["at"] - before["at"] if before else 0.0

    def spread(name: str) -> Spread:
        return pages.spread(pages.since(old["histograms"].get(name) if old else None, new["histograms"].get(name)))

    def rate(count: Callable[[RouterRow], int]) -> Optional[float]:
        return pages.rate(count(old), count(new), elapsed_s) if old else None

    router: RouterRow = {
        **new,
        "requests_per_s": rate(lambda row: row["requests"]),
        "errors_per_s": rate(lambda row: row["errors"]),
        "tokens_per_s": rate(lambda row: row["tokens"]),
        "ttft_s": spread("ttft_s"),
        "inter_token_s": spread("inter_token_s"),
        "kv_hand_over_s": spread("kv_hand_over_s"),
        "queue_s": spread("queue_s"),
    }
    return {**after, "router": router}


def _nodes(plan: Plan, hosts: Sequence[str]) -> list[Node]:
    return [{"node": n, "host": hosts[n] if n < len(hosts) else "", "gpus": gpus} for n, gpus in enumerate(gpus_of(plan))]


def _instance(known: Known, one: Instance, row: Mapping[str, Any], at: float) -> InstanceRow:
    """One instance from its row of status.json ({} while there is none)."""
    stand = known.happened.instances.get(one.name, Standing())
    stage = _stage(known, one, row, stand)
    since = stand.at if stand.stage == stage else row.get("since")
    url = row.get("url", "")
    workers = known.figures.workers if known.figures else {}
    seen = workers.get(url.removeprefix("http://"), WorkerFigures())
    return {
        "name": one.name,
        "role": one.role,
        "url": url,
        "stage": stage,
        "percent": row.get("percent", stand.percent if stand.stage == stage else None),
        "since_s": max(0.0, at - since) if since and stage != STOPPED else None,
        "detail": row.get("detail", ""),
        "last_line": row.get("last_line", ""),
        "ended": _ended(known, row),
        "restarts": row.get("restarts", 0),
        "worker_state": seen.state,
        "active": seen.active,
        "requests": seen.requests,
        "errors": seen.errors,
        "ranks": _ranks(known, one, row, stage),
    }


def _ended(known: Known, row: Mapping[str, Any]) -> str:
    """How it ended, and what it waits for."""
    why = known.status.get("degraded", {}).get(row.get("name", ""))
    return f"cannot be started now: {why}; {row['ended']}" if why and row["ended"] else str(row.get("ended", ""))


def _stage(known: Known, one: Instance, row: Mapping[str, Any], stand: Standing) -> str:
    """Its stage as far as status and events know it; once all is over, what was written last is no longer so."""
    if one.name in known.status.get("resting", ()):
        return RESTING
    if row.get("ended"):
        return ENDED
    return STOPPED if known.status["state"] in OVER else row.get("stage") or stand.stage or "scheduled"


def _ranks(known: Known, one: Instance, row: Mapping[str, Any], stage: str) -> list[RankRow]:
    """The instance's ranks; one whose own stage is not known is where its instance is, if it has reported."""
    reports = {report["rank"]: report for report in row.get("ranks", ())}
    out: list[RankRow] = []
    for rank in known.plan.ranks[one.first_rank : one.first_rank + one.size]:
        report = reports.get(rank.rank, {})
        stand = known.happened.ranks.get(rank.rank, Standing())
        out.append(
            {
                "rank": rank.rank,
                "tp": rank.tp_rank,
                "pp": rank.pp_rank,
                "node": rank.node,
                "gpu": rank.gpu,
                "host": report.get("host", ""),
                "pid": report.get("pid", 0),
                "stage": stage
                if stage in NOT_RUNNING
                else report.get("stage") or stand.stage or (stage if "pid" in report else "scheduled"),
            }
        )
    return out


def _others(known: Known) -> list[OtherRow]:
    """Servers that run already, or that came by discovery."""
    ours = {one.get("url", "").removeprefix("http://") for one in known.status.get("instances", ())}
    workers = known.figures.workers.items() if known.figures else ()
    return [
        {"url": url, "role": one.role, "worker_state": one.state, "active": one.active, "requests": one.requests, "errors": one.errors}
        for url, one in workers
        if url not in ours
    ]


def _router(row: Mapping[str, Any], figures: Optional[Figures]) -> RouterRow:
    """The front door's counters; rates and spreads are still to be filled in."""
    values = figures.values if figures else {}
    none: Spread = {"p50": None, "p99": None, "count": 0}

    def count(*names: str) -> int:
        return int(sum(values.get(name, 0) for name in names))

    return {
        "stage": ENDED if row.get("ended") else row.get("stage", "scheduled"),
        "restarts": row.get("restarts", 0),
        "in_flight": count("requests_in_flight"),
        "queued": count("requests_queued"),
        "requests": count("total_requests"),
        "answered": count("total_responses"),
        "errors": count("http_exceptions", "internal_errors"),
        "shed": count("shed_requests"),
        "retries": count("retries"),
        "tokens": count("generated_tokens"),
        "first_token_at": values.get("first_token_time_seconds"),
        "requests_per_s": None,
        "errors_per_s": None,
        "tokens_per_s": None,
        "ttft_s": none,
        "inter_token_s": none,
        "kv_hand_over_s": none,
        "queue_s": none,
        "histograms": figures.histograms if figures else {},
    }


def _ready_s(happened: Happened) -> Optional[float]:
    """Seconds from the beginning to the open router; None if it is not open yet, or nothing is known of the beginning."""
    return happened.opened_at - happened.began_at if happened.opened_at and happened.began_at else None
