"""The router's figures about each role, GET /admin/load, and what was seen between two readings of them."""

from __future__ import annotations

import http.client
import json
from typing import Any, Dict, Mapping

from disagg_launch.runtime.policy import Seen

ANSWER_S = 5.0
MEANS = (("requests", "queue_s", "taken"), ("answered", "ttft_s", "answered"), ("completed", "busy_s", "completed"))
"""What Seen calls a number of observations and their mean, and the router's name of the count; its sums are named as the means are."""

Figures = Mapping[str, Mapping[str, float]]


def read(host: str, port: int, token: str) -> Figures:
    """The figures by role, as they are now. OSError or ValueError if the router does not tell them."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/admin/load", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        told: Any = json.loads(answer.read())
    except http.client.HTTPException as wrong:
        raise ValueError(f"no answer that could be read ({wrong!r})") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"it answers {answer.status}: {told}")
    figures: Figures = told
    return figures


def between(before: Mapping[str, float], after: Mapping[str, float], at_s: float, span_s: float, instances: int) -> Seen:
    """What was seen of a role in the `span_s` seconds between two readings. A router that began anew counts from 0 again."""
    if any(after[count] < before[count] for _, _, count in MEANS):
        before = dict.fromkeys(before, 0.0)
    told: Dict[str, float] = {}
    for number, mean, count in MEANS:
        told[number] = after[count] - before[count]
        told[mean] = max(0.0, after[mean] - before[mean]) / told[number] if told[number] else 0.0
    now = {name: after[name] for name in ("active", "waiting", "oldest_s")}
    return Seen(at_s=at_s, span_s=span_s, instances=instances, **told, **now)
