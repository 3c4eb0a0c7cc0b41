"""How loaded each role is, in the figures that a scaling policy needs: the body of GET /admin/load.

Sums and counts run since the router began, so that whoever reads twice has the means of the time between.
"""

from __future__ import annotations

import asyncio

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router.dispatch import Dispatch
from disagg_launch.router.metrics import Histogram, Metrics
from disagg_launch.router.workers import State

Figures = dict[str, float]


def load(dispatch: Dispatch, metrics: Metrics) -> dict[str, Figures]:
    """By role: how many workers are `ready`, requests `active` at them and `waiting`, how long the `oldest_s` of those has waited;

    `taken` and `queue_s` count requests that had their turn (or gave up) and their waiting, `answered` and `ttft_s` first tokens (for a
    context worker: prefills), `completed` and `busy_s` what workers finished. Seconds.
    """
    metrics.fold()
    now_s = asyncio.get_running_loop().time()
    return {role: _of(role, dispatch, metrics, now_s) for role in (CONTEXT, GENERATION)}


def _of(role: str, dispatch: Dispatch, metrics: Metrics, now_s: float) -> Figures:
    workers, waiting = dispatch.table.of(role), dispatch.waiting[role]
    figures: Figures = {
        "ready": sum(worker.state is State.READY for worker in workers),
        "active": sum(worker.active for worker in workers),
        "waiting": len(waiting),
        "oldest_s": max(0.0, now_s - next(iter(waiting.values()))) if waiting else 0.0,
    }
    pairs = (("taken", "queue_s", metrics.turn), ("answered", "ttft_s", metrics.first_token), ("completed", "busy_s", metrics.complete))
    for count, total, histograms in pairs:
        one: Histogram = histograms[role]
        figures[count], figures[total] = sum(one.counts), one.total
    return figures
