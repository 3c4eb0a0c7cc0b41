"""The router's own counters as the figures that a snapshot is made of, without the detour over their Prometheus text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from disagg_launch.watch.figures import Figures, WorkerFigures

if TYPE_CHECKING:
    from disagg_launch.router.metrics import Metrics
    from disagg_launch.router.workers import Worker


def figures(metrics: Metrics, workers: Iterable[Worker]) -> Figures:
    """All of this router process's figures now, under the names that `watch.figures.read` gives those of its /metrics."""
    metrics.fold()
    values: dict[str, float] = dict(metrics.counted)
    values |= {"requests_in_flight": metrics.in_flight, "requests_queued": metrics.queued(), "generated_tokens": metrics.tokens}
    values["retries"] = sum(metrics.retries.values())
    if metrics.first_token_at:
        values["first_token_time_seconds"] = metrics.first_token_at
    of = {"ttft_s": metrics.ttft, "inter_token_s": metrics.inter_token, "kv_hand_over_s": metrics.hand_over, "queue_s": metrics.queue}
    seen = {one.url: WorkerFigures(one.state.value, one.active, one.requests, one.errors) for one in workers}
    return Figures(values, {name: {"bounds": list(one.bounds), "counts": list(one.counts)} for name, one in of.items()}, seen)
