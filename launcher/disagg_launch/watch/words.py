"""Numbers and stages as people read them, in few characters. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Optional

from disagg_launch.runtime.readiness import UP
from disagg_launch.watch.shape import InstanceRow, Spread
from disagg_launch.watch.snapshot import ENDED, RESTING, STOPPED

NONE = "-"
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def clean(text: str) -> str:
    """The text without colours and other control characters: what a worker says must not write to the terminal's own settings."""
    return "".join(one if one.isprintable() else " " for one in ESCAPE.sub("", text).expandtabs())


def seconds(value: Optional[float]) -> str:
    """`340 us`, `12 ms`, `1.5 s`, `42 s`, `12 min`, `3 h`, `2 d`; "-" for None."""
    if value is None:
        return NONE
    for size, unit in UNITS:
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    if value < 0.0995:
        return f"{value * 1e6:.0f} us" if value < 0.000995 else f"{value * 1e3:.{int(value < 0.00995)}f} ms"
    return f"{value:.{2 if value < 1 else int(value < 9.95)}f} s"


def number(value: Optional[float]) -> str:
    """`0`, `0.25`, `7.5`, `312`, `12.3k`, `4.5M`; "-" for None."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.1f}{unit}"
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def pair(spread: Spread) -> str:
    """`31 ms / 120 ms`: the middle and the slow end."""
    return f"{seconds(spread['p50'])} / {seconds(spread['p99'])}" if spread["count"] else NONE


def stage(one: InstanceRow) -> str:
    """`loading 55 %`."""
    return one["stage"] + (f" {one['percent']:.0f} %" if one["percent"] is not None else "")


def by_stage(instances: Iterable[InstanceRow]) -> str:
    """`2 healthy, 1 loading`, most first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(one["stage"] for one in instances).most_common())


def trouble(one: InstanceRow) -> int:
    """How much an instance needs to be looked at: 3 ended, 2 not healthy, 1 not used by the router, 0 well, or as wished."""
    if one["stage"] in (RESTING, STOPPED):
        return 0
    if one["stage"] == ENDED:
        return 3
    if one["stage"] not in UP:
        return 2
    return int(one["worker_state"] not in ("ready", ""))
