"""The table of workers: who there is, in what state, how busy, and whether it may be given requests.

    joining --health 200--> ready --failures in a row--> suspect --health 200 after a pause--> ready
    any --exited, or its health silent--> gone --health 200--> ready            ready --told so--> draining

Failures are counted per request (a request tries a worker once), a client that leaves counts for nothing, and suspects are asked
when nobody is ready: a breaker that takes the last worker away turns one bad request into an outage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

from disagg_launch.router.upstream import Pool

FAILURES_TO_SUSPECT = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class State(enum.Enum):
    """What a worker may be given: ready everything, suspect only what nobody else can take, the others nothing."""

    JOINING = "joining"
    READY = "ready"
    DRAINING = "draining"
    SUSPECT = "suspect"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Worker:
    """One server. `active` requests and `active_tokens` (prompt sizes) are what this router has given it and not got back."""

    url: str
    role: str
    pool: Pool
    worker_id: str = ""  # the name under which it registered; "" for one of the configuration
    state: State = State.JOINING
    active: int = 0
    active_tokens: int = 0
    failures_in_row: int = 0
    pause_s: float = FIRST_PAUSE_S
    paused_until: float = 0.0
    silent_probes: int = 0
    draining: bool = False
    offers: Mapping[str, Any] = field(default_factory=dict)  # /server_info's disaggregated_params of a context worker
    # counted for /metrics
    requests: int = 0
    completed: int = 0
    errors: int = 0
    retries: int = 0

    @property
    def usable(self) -> bool:
        """Whether it may have something cached: it is up, as far as is known."""
        return self.state not in (State.GONE, State.JOINING)

    def take(self, tokens: int) -> None:
        """A request of this size is given to it."""
        self.requests += 1
        self.active += 1
        self.active_tokens += tokens

    def give_back(self, tokens: int) -> None:
        """The request has ended, however it ended."""
        self.active -= 1
        self.active_tokens -= tokens

    def succeeded(self) -> None:
        """It answered."""
        self.completed += 1
        self.failures_in_row = 0
        if self.state is State.READY:
            self.pause_s = FIRST_PAUSE_S


@dataclass
class Table:
    """All workers by role. `usable(role)` is kept, so that choosing among many costs no filtering."""

    limit: int = 0  # requests in flight per worker, 0 without limit
    by_url: dict[tuple[str, str], Worker] = field(default_factory=dict)
    _usable: dict[str, tuple[Worker, ...]] = field(default_factory=dict)

    def add(self, worker: Worker) -> None:
        """Put a worker in; there must not be one of its role and url."""
        self.by_url[worker.role, worker.url] = worker
        self._usable.clear()

    def remove(self, worker: Worker) -> None:
        """Take a worker out for good."""
        self.by_url.pop((worker.role, worker.url), None)
        self._usable.clear()

    def of(self, role: str) -> list[Worker]:
        """The workers of a role, in the order in which they came."""
        return [w for w in self.by_url.values() if w.role == role]

    def usable(self, role: str) -> tuple[Worker, ...]:
        """The ready ones; when there is none, the suspects. Order is that of joining."""
        found = self._usable.get(role)
        if found is None:
            all_of = self.of(role)
            ready = tuple(w for w in all_of if w.state is State.READY)
            found = self._usable[role] = ready or tuple(w for w in all_of if w.state is State.SUSPECT)
        return found

    def free(self, role: str, excluded: Iterable[Worker] = ()) -> tuple[Worker, ...]:
        """The usable ones that are under the limit and not excluded."""
        found = self.usable(role)
        if self.limit:
            found = tuple(w for w in found if w.active < self.limit)
        if excluded:
            found = tuple(w for w in found if w not in excluded)
        return found

    def change(self, worker: Worker, state: State) -> None:
        """Put a worker into a state. Its connections are dropped when it is gone: whoever waits for it learns that at once."""
        if worker.state is state:
            return
        worker.state = state
        self._usable.clear()
        if state is State.GONE:
            worker.pool.abort("gone")
        elif state is State.READY:
            worker.failures_in_row = worker.silent_probes = 0

    def failed(self, worker: Worker, now: float) -> None:
        """One more request found the worker failing."""
        worker.errors += 1
        worker.failures_in_row += 1
        if worker.state is State.READY and worker.failures_in_row >= FAILURES_TO_SUSPECT:
            worker.paused_until = now + worker.pause_s
            worker.pause_s = min(worker.pause_s * 2, LONGEST_PAUSE_S)
            self.change(worker, State.SUSPECT)
