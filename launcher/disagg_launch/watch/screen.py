"""A snapshot on a terminal of any size, from 80 columns on: what is wrong first, then who does what, then where. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Optional

from rich.text import Text

from disagg_launch.place.numbers import counted
from disagg_launch.watch.grid import LEGEND, grid
from disagg_launch.watch.keys import EVENTS, FROM_END, HELP, INSTANCES, KEYS, LOG, NODES, View, chosen, ordered
from disagg_launch.watch.shape import InstanceRow, OtherRow, RouterRow, Snapshot
from disagg_launch.watch.state import LIVING
from disagg_launch.watch.words import by_stage, clean, number, pair, seconds, stage, trouble

FEWEST_ROWS = 3
WIDE = 100  # columns from which there is room for what an instance said last
STATES = {"ready": "bold green", "starting": "bold yellow", "pending": "bold yellow", "stopping": "bold yellow"}
TROUBLE = ("green", "yellow", "yellow", "bold red")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)\.\d+Z")  # a log's, of which a screen has room for the time
# heading, width, whether to the right, and what to show
COLUMNS: tuple[tuple[str, int, bool, Callable[[InstanceRow], str]], ...] = (
    ("instance", 9, False, lambda one: one["name"]),
    ("stage", 15, False, stage),
    ("worker", 8, False, lambda one: one["worker_state"] or "-"),
    ("active", 6, True, lambda one: number(one["active"])),
    ("reqs", 6, True, lambda one: number(one["requests"])),
    ("errs", 5, True, lambda one: number(one["errors"])),
    ("restarts", 8, True, lambda one: number(one["restarts"])),
    ("since", 6, True, lambda one: seconds(one["since_s"])),
)


def screen(shot: Snapshot, view: View, width: int, height: int, log: Sequence[str] = ()) -> list[Text]:
    """`height` lines of at most `width` characters; `log` are the last lines of the chosen instance's log, oldest first."""
    head = list(_head(shot))
    room = height - len(head) - 2
    if view.page == NODES:
        body = _scrolled([*grid(shot, width, hosts=True), Text(), *map(Text, LEGEND)], view, room)
    elif view.page == EVENTS:
        body = _scrolled([Text(_event(one, shot)) for one in shot["events"]], view, room)
    elif view.page == LOG:
        body = _scrolled([Text(clean(STAMP.sub(r"\1", line))) for line in log], view, room)
    elif view.page == HELP:
        body = _scrolled([Text(f"  {keys:14} {what}") for keys, what in KEYS], view, room)
    else:
        body = _overview(shot, view, width, room - (width <= WIDE))
    lines = [*head, _rule(shot, view, width), *body[:room]]
    lines += [Text()] * (height - len(lines))
    lines[height - 1 :] = [_foot(view)]
    if view.page == INSTANCES and width <= WIDE and room > FEWEST_ROWS:
        lines[-2] = _about(chosen(view, shot))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _head(shot: Snapshot) -> Iterator[Text]:
    up = f"up {seconds(shot['at'] - shot['began_at'])}" if shot["began_at"] and shot["state"] in LIVING else ""
    rest = "  ".join(filter(None, (shot["url"], f"plan {shot['digest']}", up)))
    yield Text.assemble((f"{shot['name']}  ", "bold"), (shot["state"], STATES.get(shot["state"], "bold red")), f"  {rest}")
    if shot["job"]:
        yield Text(shot["job"])
    if shot["verdict"]:
        yield from _verdict(shot["verdict"])
    ready = f"; ready after {seconds(shot['ready_s'])}" if shot["ready_s"] is not None else ""
    others = f"; {counted(len(shot['others']), 'server')} of others" if shot["others"] else ""
    ours = (
        f"{counted(len(shot['instances']), 'instance')}: {by_stage(shot['instances'])}" if shot["instances"] else "no instances of its own"
    )
    yield Text(f"{ours}{others}{ready}")
    if shot["answers"]:
        yield from _router(shot["router"])
    elif shot["state"] in LIVING:
        yield Text(f"router: {'not open yet' if shot['state'] == 'starting' else 'it gives no figures'}", style="yellow")


def _verdict(told: dict[str, Any]) -> Iterator[Text]:
    style = "bold red" if told.get("exit_code") not in (0, 130, 143) else "bold"
    yield Text(clean(f"verdict: {told.get('reason', '')}".splitlines()[0]), style=style)
    if told.get("cause"):
        yield Text(clean(f"likely cause: {told['cause']}; {told.get('remedy', '')}"), style="yellow")


def _router(row: RouterRow) -> Iterator[Text]:
    line = Text(f"in flight {number(row['in_flight'])}  ")
    line.append(f"queued {number(row['queued'])}", style="yellow" if row["queued"] else "")
    line.append(f"  {number(row['requests_per_s'])} requests/s  {number(row['tokens_per_s'])} tokens/s  ")
    line.append(f"errors {number(row['errors'])}", style="red" if row["errors_per_s"] else "")
    line.append(f"  retries {number(row['retries'])}")
    yield line
    yield Text(f"p50 / p99: TTFT {pair(row['ttft_s'])}  ITL {pair(row['inter_token_s'])}  KV {pair(row['kv_hand_over_s'])}")


def _rule(shot: Snapshot, view: View, width: int) -> Text:
    one = chosen(view, shot)
    title = {LOG: f"log of {one['name'] if one else '-'}", NODES: "nodes x GPUs", EVENTS: "what happened", HELP: "keys"}
    sorts = "" if view.sort == "trouble" else f", by {view.sort}"
    return Text(f"-- {title.get(view.page, 'instances' + sorts)}{' (held)' if view.held else ''} ".ljust(width, "-"), style="dim")


def _foot(view: View) -> Text:
    if view.asking:
        return Text(f"restart {view.asking}? y to drain and restart it, any other key to leave it", style="bold reverse")
    if view.said:
        return Text(view.said, style="reverse")
    return Text("q leave  h keys  s sort  l log  n nodes  e events  r restart", style="dim")


def _overview(shot: Snapshot, view: View, width: int, room: int) -> list[Text]:
    """The table of instances, and below it as much of the map and of what happened as there is room for."""
    rows = ordered(shot, view.sort)
    table = [_headings(width), *(_row(one, one is chosen(view, shot), width) for one in rows)]
    others, picture = [_other(one) for one in shot["others"]], grid(shot, width, hosts=False)
    told = [one for one in shot["events"] if one.get("event") != "stage" or one.get("rank") is None]  # ranks go with their instances
    events = [Text(_event(one, shot), style="dim") for one in told[-4:]]
    spare = room - min(len(table), max(FEWEST_ROWS + 1, room // 2))
    below = others[:spare]
    for part in (picture, events):
        if part and len(below) + len(part) + 1 <= spare:
            below += [Text(), *part]
    return [table[0], *_window(table[1:], rows, view, shot, room - len(below) - 1), *below]


def _window(table: list[Text], rows: list[InstanceRow], view: View, shot: Snapshot, room: int) -> list[Text]:
    """The part of the table that the chosen row is in, with a line that counts what is not shown."""
    if len(table) <= room:
        return table
    one = chosen(view, shot)
    at, room = rows.index(one) if one else 0, max(1, room - 1)
    first = max(0, min(at - room // 2, len(table) - room))
    above, under = first, len(table) - room - first
    return [*table[first : first + room], Text(f"  {above} above, {under} below", style="dim")]


def _headings(width: int) -> Text:
    return Text(
        "  " + "  ".join(_fit(name, size, right) for name, size, right, _ in COLUMNS) + ("  last line" if width > WIDE else ""), "bold"
    )


def _row(one: InstanceRow, is_chosen: bool, width: int) -> Text:
    line = Text("> " if is_chosen else "  ", style="bold" if is_chosen else "")
    for place, (name, size, right, show) in enumerate(COLUMNS):
        colour = TROUBLE[trouble(one)] if name in ("stage", "worker") else "red" if name == "errs" and one["errors"] else ""
        line.append("  " * (place > 0)).append(_fit(show(one), size, right), style=colour)
    return line.append("  " + _said(one), style="dim") if width > WIDE else line


def _other(one: OtherRow) -> Text:
    """A row for a server that somebody else started, in the columns of the instances."""
    counts = (number(one[key]).rjust(size) for key, size in (("active", 6), ("requests", 6), ("errors", 5)))  # type: ignore[literal-required]
    return Text("  " + "  ".join((one["url"][:26].ljust(26), one["worker_state"].ljust(8), *counts)))


def _about(one: Optional[InstanceRow]) -> Text:
    """What the chosen instance said last, where rows have no room for it."""
    return Text(f"{one['name']}: {_said(one) or 'has said nothing yet'}", style=TROUBLE[trouble(one)]) if one else Text()


def _said(one: InstanceRow) -> str:
    return clean(one["ended"] or one["detail"] or one["last_line"])


def _fit(text: str, size: int, right: bool) -> str:
    return text.rjust(size) if right else text[:size].ljust(size)


def _scrolled(lines: list[Text], view: View, room: int) -> list[Text]:
    most = max(0, len(lines) - room)
    scroll = min(view.scroll, most)
    first = most - scroll if view.page in FROM_END else scroll
    return lines[first : first + room]


def _event(one: dict[str, Any], shot: Snapshot) -> str:
    """`04:03:19 +12.3 s gen0: healthy`; the seconds are those since the gateway began."""
    at = datetime.fromtimestamp(one.get("at", 0)).strftime("%H:%M:%S")
    who = one.get("instance") or shot["name"]
    rank = f" rank {one['rank']}" if one.get("rank") is not None and one["event"] != "ended" else ""
    kind = f"{one['event']}: " if one.get("event") in ("ended", "restart", "proof", "verdict") else ""
    if one.get("event") == "restart" and one.get("pause_s") is not None:
        return clean(f"{at} {one.get('t', 0):+8.1f} s  {who}: started again in {one['pause_s']:g} s")
    what = kind + str(one.get("text") or one.get("stage") or one.get("event", ""))
    return clean(f"{at} {one.get('t', 0):+8.1f} s  {who}{rank}: {what}")
