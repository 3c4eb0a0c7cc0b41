"""The shape of a snapshot: what JSON programs get, described by types. Times are unix seconds, durations seconds, None is "not known"."""

from __future__ import annotations

from typing import Any, Optional

from typing_extensions import TypedDict  # pydantic cannot check the standard library's before Python 3.12

SCHEMA = 1


class Node(TypedDict):
    """One node of the plan. `host` is "" until nodes have been given."""

    node: int
    host: str
    gpus: int


class RankRow(TypedDict):
    """One rank: its place in the plan, and where it turned out to be. `gpu` is the slot number on its node; `pid` 0 until it reports."""

    rank: int
    tp: int
    pp: int
    node: int
    gpu: int
    host: str
    pid: int
    stage: str


class InstanceRow(TypedDict):
    """One instance.

    `stage` as in `status`, or "ended", "resting" (stopped on purpose), "stopped" (with all); `percent` of that stage; `since_s` how long
    it has been in it.
    `ended` says how, "" while it lives; `last_line` is what it said last.
    What the router says of it: `worker_state` (joining, ready, draining, suspect, gone; "" if it does not know it), `active` requests,
    and `requests` and `errors` since the router began.
    """

    name: str
    role: str
    url: str
    stage: str
    percent: Optional[float]
    since_s: Optional[float]
    detail: str
    last_line: str
    ended: str
    restarts: int
    worker_state: str
    active: int
    requests: int
    errors: int
    ranks: list[RankRow]


class OtherRow(TypedDict):
    """A server that the router uses and this deployment did not start; `url` is "host:port"."""

    url: str
    role: str
    worker_state: str
    active: int
    requests: int
    errors: int


class Spread(TypedDict):
    """The middle and the slow end of what was observed, seconds, and how many observations there were; None without any."""

    p50: Optional[float]
    p99: Optional[float]
    count: int


class Histogram(TypedDict):
    """Counts since the router began: `counts[i]` observations are at most `bounds[i]` seconds (and above the bound before)."""

    bounds: list[float]
    counts: list[int]


class RouterRow(TypedDict):
    """The front door. The counters run since it began; `..._per_s` and the spreads are of the time since the snapshot before.

    In the first snapshot of all the rates are None, and the spreads are of the time since the router began.
    `tokens` are those of answers, counted as events of streams. `first_token_at` is None until one was sent.
    `kv_hand_over_s`: from the context worker's answer to the first token, which is KV transfer and first decode step.
    """

    stage: str
    restarts: int
    in_flight: int
    queued: int
    requests: int
    answered: int
    errors: int
    shed: int
    retries: int
    tokens: int
    first_token_at: Optional[float]
    requests_per_s: Optional[float]
    errors_per_s: Optional[float]
    tokens_per_s: Optional[float]
    ttft_s: Spread
    inter_token_s: Spread
    kv_hand_over_s: Spread
    queue_s: Spread
    histograms: dict[str, Histogram]


class Snapshot(TypedDict):
    """A deployment at one moment. `state` as in `status`; `job` is Slurm's sentence about it, "" without Slurm.

    `began_at` is when its gateway began; `ready_s` the seconds from then to the open router.
    `events` are the last lines of state/events.jsonl, oldest first; `verdict` is state/verdict.json once the deployment has ended.
    `answers` says whether the router's figures could be had; without them its counters are 0.
    """

    schema: int
    name: str
    digest: str
    state: str
    url: str
    job: str
    at: float
    began_at: Optional[float]
    ready_s: Optional[float]
    answers: bool
    nodes: list[Node]
    instances: list[InstanceRow]
    others: list[OtherRow]
    router: RouterRow
    events: list[dict[str, Any]]
    verdict: Optional[dict[str, Any]]
