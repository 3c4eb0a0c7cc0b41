"""Counters and histograms under upstream's names (and `_total`), and their Prometheus text. Plain attributes: counting must cost little."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Callable, Iterable, Iterator

from disagg_launch.plan import CONTEXT, GENERATION, PREFIX
from disagg_launch.router.workers import State, Worker

SHORT = tuple(0.001 * 2**i for i in range(22))  # 1 ms to 35 minutes
LONG = tuple(0.1 * 2**i for i in range(15))
_COUNTERS = {
    "total_requests": "requests that came in",
    "stream_requests": "requests for a stream",
    "nonstream_requests": "requests for one answer",
    "validation_exceptions": "requests refused as they were asked",
    "http_exceptions": "answers with a worker's or the router's own 4xx or 5xx",
    "internal_errors": "requests that failed for a reason of the router's own",
    "total_responses": "requests answered",
    "client_disconnects": "clients that left before their answer",
    "resumed_streams": "streams that went on at another generation worker",
    "broken_streams": "streams that ended in an error event",
    "shed_requests": "requests answered 429 or 503 because of load",
}
_BY_ROLE = (
    ("total", "requests", "requests given to {role} workers"),
    ("error", "errors", "those that failed there"),
    ("retry", "retries", "those that came from another worker"),
    ("completed", "completed", "those that were answered"),
)
_WORKER = (
    ("active_requests", "gauge", "active", "requests at the worker now"),
    ("requests_total", "counter", "requests", "requests given to the worker"),
    ("errors_total", "counter", "errors", "those that failed there"),
)


@dataclass(slots=True)
class Histogram:
    """Observations in seconds by upper bound; the last count is for those above every bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    observe: Callable[[float], None] = field(init=False)
    _new: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.observe = self._new.append

    def fold(self, least: int = 0) -> None:
        """Count what was observed since the last time, if it is as much as `least`: many at once cost a tenth of one by one."""
        new = self._new
        if len(new) < least:
            return
        new.sort()
        ends = [bisect_right(new, bound) for bound in self.bounds]
        for at, (low, high) in enumerate(zip([0, *ends], [*ends, len(new)])):
            self.counts[at] += high - low
        self.total += sum(new)
        new.clear()

    def lines(self, name: str, text: str) -> Iterator[str]:
        """In Prometheus' form."""
        self.fold()
        yield f"# HELP {name} {text}\n# TYPE {name} histogram"
        below = 0
        for bound, count in zip(self.bounds, self.counts):
            below += count
            yield f'{name}_bucket{{le="{bound:g}"}} {below}'
        below += self.counts[-1]
        yield f'{name}_bucket{{le="+Inf"}} {below}\n{name}_sum {self.total:g}\n{name}_count {below}'


class Metrics:
    """All of a router process's numbers."""

    def __init__(self) -> None:
        self.counted = dict.fromkeys(_COUNTERS, 0)
        self.queue = Histogram(SHORT)
        self.ttft = Histogram(SHORT)
        self.inter_token = Histogram(SHORT)
        self.hand_over = Histogram(SHORT)
        self.turn = {CONTEXT: Histogram(SHORT), GENERATION: Histogram(SHORT)}
        self.first_token = {CONTEXT: Histogram(SHORT), GENERATION: Histogram(SHORT)}
        self.complete = {CONTEXT: Histogram(LONG), GENERATION: Histogram(LONG)}
        self.retries: dict[tuple[str, str], int] = {}
        self.in_flight = 0
        self.queued: Callable[[], int] = lambda: 0
        self.tokens = 0
        self.first_token_at = 0.0  # unix time; of the first request that was answered

    def fold(self, least: int = 0) -> None:
        """Count what the histograms have collected, those that have collected as much as `least`."""
        by_role = (*self.turn.values(), *self.first_token.values(), *self.complete.values())
        for one in (self.queue, self.ttft, self.inter_token, self.hand_over, *by_role):
            one.fold(least)

    def count(self, name: str) -> None:
        """One more of a counter."""
        self.counted[name] += 1

    def retried(self, role: str, cause: str) -> None:
        """A request is sent again, because of `cause`."""
        self.retries[role, cause] = self.retries.get((role, cause), 0) + 1

    def text(self, workers: Iterable[Worker]) -> str:
        """The page for Prometheus."""
        return "\n".join([*self._own(), *self._by_role(list(workers))]) + "\n"

    def _own(self) -> Iterator[str]:
        for name, text in _COUNTERS.items():
            yield f"# HELP {name}_total {text}\n# TYPE {name}_total counter\n{name}_total {self.counted[name]}"
        yield from self.queue.lines("queue_latency_seconds", "waiting for a worker")
        yield from self.ttft.lines("first_token_latency_seconds", "from the request to the first token sent to the client")
        yield from self.inter_token.lines("inter_token_latency_seconds", "between two pieces of a stream")
        yield from self.hand_over.lines(
            "kv_hand_over_seconds", "from the context answer to the first token: KV transfer and first decode step"
        )
        yield f"# HELP requests_in_flight requests being answered\n# TYPE requests_in_flight gauge\nrequests_in_flight {self.in_flight}"
        yield f"# HELP requests_queued those of them that wait for a worker\n# TYPE requests_queued gauge\nrequests_queued {self.queued()}"
        yield "# HELP generated_tokens_total tokens of answers: events of streams, usage of whole answers"
        yield f"# TYPE generated_tokens_total counter\ngenerated_tokens_total {self.tokens}"
        if self.first_token_at:
            yield "# HELP first_token_time_seconds unix time of the first token of the first answer"
            yield f"# TYPE first_token_time_seconds gauge\nfirst_token_time_seconds {self.first_token_at:.3f}"
        yield "# HELP retries_total requests sent again\n# TYPE retries_total counter"
        for (role, cause), count in sorted(self.retries.items()):
            yield f'retries_total{{role="{role}",cause="{cause}"}} {count}'

    def _by_role(self, workers: list[Worker]) -> Iterator[str]:
        for role, prefix in PREFIX.items():
            mine = [w for w in workers if w.role == role]
            for name, attribute, text in _BY_ROLE:
                whole = f"{prefix}_{name}_requests_total"
                yield f"# HELP {whole} {text.format(role=role)}\n# TYPE {whole} counter"
                yield f"{whole} {sum(getattr(w, attribute) for w in mine)}"
            yield from self.turn[role].lines(f"{prefix}_queue_latency_seconds", f"waiting for a {role} worker")
            yield from self.first_token[role].lines(f"{prefix}_first_token_latency_seconds", f"of {role} workers")
            # upstream's name; a context worker makes one token only
            per_token = self.inter_token if role == GENERATION else Histogram(SHORT)
            yield from per_token.lines(f"{prefix}_per_token_latency_seconds", f"between two pieces of a stream of {role} workers")
            yield from self.complete[role].lines(f"{prefix}_complete_latency_seconds", f"of {role} workers")
        yield "# HELP worker_state 1 for the state the worker is in\n# TYPE worker_state gauge"
        for worker in workers:
            label = f'role="{worker.role}",worker="{worker.url}"'
            for state in State:
                yield f'worker_state{{{label},state="{state.value}"}} {int(worker.state is state)}'
        for name, kind, attribute, text in _WORKER:
            yield f"# HELP worker_{name} {text}\n# TYPE worker_{name} {kind}"
            yield from (f'worker_{name}{{role="{w.role}",worker="{w.url}"}} {getattr(w, attribute)}' for w in workers)
