"""The router's Prometheus page as figures, what happened between two pages, and percentiles of histograms. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple, Optional

from disagg_launch.watch.shape import Histogram, Spread

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")
HISTOGRAMS = {
    "ttft_s": "first_token_latency_seconds",
    "inter_token_s": "inter_token_latency_seconds",
    "kv_hand_over_s": "kv_hand_over_seconds",
    "queue_s": "queue_latency_seconds",
}


class WorkerFigures(NamedTuple):
    """What the router says of one worker."""

    state: str = ""
    active: int = 0
    requests: int = 0
    errors: int = 0
    role: str = ""


class Figures(NamedTuple):
    """One page: counters (without `_total`) and gauges by name, histograms by our names, workers by "host:port"."""

    values: dict[str, float]
    histograms: dict[str, Histogram]
    workers: dict[str, WorkerFigures]


def read(page: str) -> Figures:
    """The figures on a page. Names that are not there are missing or empty; ValueError if it is no Prometheus text."""
    values: dict[str, float] = {}
    below: dict[str, list[tuple[float, int]]] = {}
    workers: dict[str, dict[str, str | int]] = {}
    for name, labels, value in samples(page):
        if "worker" in labels:
            _note(workers.setdefault(labels["worker"], {}), name, labels, value)
        elif "le" in labels:
            below.setdefault(name.removesuffix("_bucket"), []).append((float(labels["le"]), int(value)))
        else:
            name = name.removesuffix("_total")  # TensorRT-LLM's router, like others, puts it behind every counter
            values[name] = values.get(name, 0) + value  # over whatever labels there are
    made = {ours: _apart(below[theirs]) for ours, theirs in HISTOGRAMS.items() if theirs in below}
    return Figures(values, made, {url: WorkerFigures(**found) for url, found in workers.items()})  # type: ignore[arg-type]


def samples(page: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each sample. ValueError at a line that is none.

    Prometheus' own client library does this too, at a fifth of a millisecond a line: a second for a page with five hundred workers.
    """
    for line in page.splitlines():
        if line and not line.startswith("#"):
            found = SAMPLE.match(line)
            if found is None:
                raise ValueError(f"no Prometheus text: {line[:80]!r}")
            labels = {key: _meant(text) for key, text in LABEL.findall(found[2] or "")}
            yield found[1], labels, float(found[3])


def _meant(text: str) -> str:
    return ESCAPED.sub(lambda found: {"n": "\n"}.get(found[1], found[1]), text) if "\\" in text else text


_OF_WORKER = {"worker_active_requests": "active", "worker_requests_total": "requests", "worker_errors_total": "errors"}


def _note(found: dict[str, str | int], name: str, labels: dict[str, str], value: float) -> None:
    if name == "worker_state" and value:
        found["state"], found["role"] = labels["state"], labels.get("role", "")
    elif name in _OF_WORKER:
        found[_OF_WORKER[name]] = int(found.get(_OF_WORKER[name], 0)) + int(value)


def _apart(below: list[tuple[float, int]]) -> Histogram:
    """Prometheus counts everything below a bound; here each count is of its own bucket."""
    below.sort()
    counts = [count for _, count in below]
    return {"bounds": [bound for bound, _ in below if bound < math.inf], "counts": [b - a for a, b in zip([0, *counts], counts)]}


def since(before: Optional[Histogram], after: Optional[Histogram]) -> Histogram:
    """What was observed between two readings; all of `after` if nothing comparable was there before, or the router began anew."""
    if after is None:
        return {"bounds": [], "counts": []}
    if before is None or before["bounds"] != after["bounds"]:
        return after
    counts = [b - a for a, b in zip(before["counts"], after["counts"])]
    return {"bounds": after["bounds"], "counts": counts} if min(counts, default=0) >= 0 else after


def spread(histogram: Histogram) -> Spread:
    """The 50th and 99th percentile and the count of a histogram."""
    return {"p50": quantile(histogram, 0.5), "p99": quantile(histogram, 0.99), "count": sum(histogram["counts"])}


def quantile(histogram: Histogram, share: float) -> Optional[float]:
    """The value that `share` of the observations do not exceed, interpolated inside its bucket as Prometheus does; None without any.

    What lies above the last bound is said to be at it.
    """
    bounds, counts = histogram["bounds"], histogram["counts"]
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return None
    for low, high, count in zip([0.0, *bounds], bounds, counts):
        if seen + count >= wanted and count:
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return bounds[-1] if bounds else None


def rate(before: float, after: float, elapsed_s: float) -> Optional[float]:
    """The growth of a counter per second; one that has become smaller began at 0 again. None if no time has passed."""
    if elapsed_s <= 0:
        return None
    return (after - before if after >= before else after) / elapsed_s
