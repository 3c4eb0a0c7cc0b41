"""Router pages as the router itself writes them, for what was counted."""

from __future__ import annotations

from collections.abc import Iterable

from disagg_launch.router.metrics import Metrics
from disagg_launch.router.upstream import Pool
from disagg_launch.router.workers import State, Worker


def worker(url: str, role: str, state: State = State.READY, **counted: int) -> Worker:
    """A worker as the router's table has it."""
    one = Worker(url, role, Pool(url, 1.0), state=state)
    for name, value in counted.items():
        setattr(one, name, value)
    return one


def page(
    requests: int = 0, tokens: int = 0, ttft_s: Iterable[float] = (), workers: Iterable[Worker] = (), in_flight: int = 0, queued: int = 0
) -> str:
    """/metrics of a router that has counted this."""
    metrics = Metrics()
    metrics.counted["total_requests"] = requests
    metrics.tokens, metrics.in_flight, metrics.queued = tokens, in_flight, lambda: queued
    for value in ttft_s:
        metrics.ttft.observe(value)
    return metrics.text(workers)
