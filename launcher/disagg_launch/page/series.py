"""What the curves of the page show: one sample a second of a router process's figures, for the last ten minutes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Optional

from disagg_launch.watch.figures import quantile, rate, since

if TYPE_CHECKING:
    from disagg_launch.router.metrics import Metrics
    from disagg_launch.watch.shape import Histogram

KEPT = 600
WINDOW = 5
"""Samples over which rates are taken: one second alone makes slow traffic look like noise."""


class Sample(NamedTuple):
    """The curves at one moment. `ttft_s` is the median of the window, None when nobody was answered in it."""

    at: float
    requests_per_s: Optional[float]
    tokens_per_s: Optional[float]
    ttft_s: Optional[float]
    in_flight: int
    queued: int


class _Counted(NamedTuple):
    at: float
    requests: int
    tokens: int
    ttft: Histogram


class Series:
    """The samples, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._counted: deque[_Counted] = deque(maxlen=WINDOW + 1)

    def sample(self, at: float, metrics: Metrics) -> None:
        """Take a sample at the unix time `at`."""
        metrics.ttft.fold()
        ttft: Histogram = {"bounds": list(metrics.ttft.bounds), "counts": list(metrics.ttft.counts)}
        now = _Counted(at, metrics.counted["total_requests"], metrics.tokens, ttft)
        self._counted.append(now)
        then = self._counted[0]
        elapsed_s = now.at - then.at
        self._samples.append(
            Sample(
                round(at, 2),
                rate(then.requests, now.requests, elapsed_s),
                rate(then.tokens, now.tokens, elapsed_s),
                quantile(since(then.ttft, now.ttft), 0.5),
                metrics.in_flight,
                metrics.queued(),
            )
        )

    def since(self, at: float) -> dict[str, list[Optional[float]]]:
        """The samples after the unix time `at`, as columns."""
        found = [one for one in self._samples if one.at > at]
        return {name: [getattr(one, name) for one in found] for name in Sample._fields}
