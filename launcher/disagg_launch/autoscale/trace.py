"""Traces: what was seen of each role, one look a line, as JSON.

    {"at_s": 5.0, "span_s": 5.0, "context": {"instances": 1, "requests": 12, "queue_s": 0.01, ...}, "generation": {...}}

`at_s` counts from any moment on; the keys of a role are those of `runtime.policy.Seen`. A front door's access log (`front_door.access_log`,
one JSON object per request) is a trace too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.policy import Seen, mean

ROLES = (CONTEXT, GENERATION)
LOG_SPAN_S = 5.0
OWN = tuple(name for name in Seen._fields if name not in ("at_s", "span_s"))

Look = Mapping[str, Seen]


def line(look: Look) -> str:
    """A look at all roles in one line."""
    first = next(iter(look.values()))
    roles = {role: {name: _short(getattr(seen, name)) for name in OWN} for role, seen in look.items()}
    return json.dumps({"at_s": _short(first.at_s), "span_s": _short(first.span_s), **roles})


def read(text: str, where: str) -> list[Look]:
    """The looks in a trace or an access log, in the order of time. BadInput for what is neither."""
    rows = {f"{where}:{number}": one for number, one in enumerate(text.splitlines(), 1) if one.strip()}
    told = {place: _row(one, place) for place, one in rows.items()}
    if not told:
        raise BadInput(f"{where}: found nothing; needed one JSON object a line, as `disagg-launch autoscale record` writes them")
    if all("total_us" in row for row in told.values()):
        return _from_requests(told, where)
    looks = [_look(row, place) for place, row in told.items()]
    return sorted(looks, key=lambda look: next(iter(look.values())).at_s)


def _row(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as wrong:
        raise BadInput(f"{where}: no JSON ({wrong})") from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: found {type(row).__name__}, needed an object with at_s, span_s, context, generation")
    return row


def _look(row: dict[str, Any], where: str) -> Look:
    try:
        times: dict[str, Any] = {name: float(row[name]) for name in ("at_s", "span_s")}
        found = {role: Seen(**times, **{name: _number(value) for name, value in row[role].items()}) for role in ROLES if role in row}
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise BadInput(
            f"{where}: no look at a deployment ({wrong!r}); needed at_s, span_s, and the figures of context or generation"
        ) from None
    if not found or times["span_s"] <= 0:
        raise BadInput(
            f"{where}: found span_s {times['span_s']:g} and {len(found)} roles; needed a time above 0, and context or generation"
        )
    return found


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{value!r} is no number from 0 on")
    return value


def _from_requests(rows: Mapping[str, dict[str, Any]], where: str) -> list[Look]:
    """An access log's requests, counted by the time at which they came; those that were refused or left by their client are passed over."""
    spans: dict[int, list[dict[str, Any]]] = {}
    for place, row in rows.items():
        if row.get("status") == 200:
            spans.setdefault(int(_came_s(row, place) // LOG_SPAN_S), []).append(row)
    if not spans:
        raise BadInput(f"{where}: the access log holds no request that was answered; needed one with status 200")
    first = min(spans)
    return [_counted(spans.get(number, []), (number - first + 1) * LOG_SPAN_S) for number in range(first, max(spans) + 1)]


def _came_s(row: dict[str, Any], where: str) -> float:
    """When a request came. BadInput if the line is not of a front door's access log."""
    times = [row.get(name) for name in ("time", "total_us", "queued_us")] + [row.get(name) or 0 for name in ("prefill_us", "ttft_us")]
    if not {"ctx", "gen"} <= row.keys() or not all(isinstance(one, (int, float)) for one in times):
        raise BadInput(f"{where}: no line of a front door's access log; needed time, total_us, queued_us, ctx, gen, ... as it writes them")
    return float(times[0] - times[1] / 1e6)


def _counted(rows: list[dict[str, Any]], at_s: float) -> Look:
    """One look at the requests of one span. Where they waited is not in the log: it is said of the first role they went to."""
    look = {}
    for role in ROLES:
        mine = [row for row in rows if row["ctx" if role == CONTEXT else "gen"]]
        parts = [_parts(row, role) for row in mine]
        means = {name: mean([(part[i], 1) for part in parts]) for i, name in enumerate(("queue_s", "ttft_s", "busy_s"))}
        servers = len({row["ctx" if role == CONTEXT else "gen"] for row in mine})
        counts = dict.fromkeys(("requests", "answered", "completed"), float(len(mine)))
        look[role] = Seen(at_s=at_s, span_s=LOG_SPAN_S, instances=servers, **counts, **means)
    return look


def _parts(row: dict[str, Any], role: str) -> tuple[float, float, float]:
    """(waited, first token, busy) of a request at one role, seconds."""
    queued, total = row["queued_us"], row["total_us"]
    prefilled = row.get("prefill_us") or 0
    if role == CONTEXT:
        return queued / 1e6, max(0, prefilled - queued) / 1e6, max(0, prefilled - queued) / 1e6
    began = prefilled or queued
    return (0 if prefilled else queued) / 1e6, max(0, (row.get("ttft_us") or total) - began) / 1e6, max(0, total - began) / 1e6


def _short(value: float) -> float:
    return round(value, 6)
