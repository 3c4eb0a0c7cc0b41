"""What the terminal view shows, and what each key changes about it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Optional

from disagg_launch.watch.shape import InstanceRow, Snapshot
from disagg_launch.watch.words import trouble

INSTANCES, NODES, EVENTS, LOG, HELP = "instances", "nodes", "events", "log", "help"
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
STEPS = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -10, PAGE_DOWN: 10, HOME: -(10**9), END: 10**9}
PAGES = {"n": NODES, "e": EVENTS, "l": LOG, "\r": LOG, "\n": LOG, "h": HELP, "?": HELP}
FROM_END = (LOG, EVENTS)  # their newest lines are at the bottom, and are what is wanted
BACK = ("\x1b", "\x7f", "i")
SORTS: dict[str, Callable[[InstanceRow], float]] = {
    "trouble": lambda one: -trouble(one),
    "plan": lambda one: 0,
    "active": lambda one: -one["active"],
    "requests": lambda one: -one["requests"],
    "errors": lambda one: -one["errors"],
    "restarts": lambda one: -one["restarts"],
    "since": lambda one: one["since_s"] or 0.0,
}
KEYS = (
    ("up down, j k", "choose an instance, or scroll; also Page Up, Page Down, Home, End"),
    ("s", "sort by the next of: " + ", ".join(SORTS)),
    ("l, Enter", "the log of the chosen instance"),
    ("n, e, i", "nodes x GPUs; what happened; back to instances"),
    ("r", "restart the chosen instance: drained first, then y to confirm"),
    ("space", "hold the picture still, and go on"),
    ("h, ?", "this page"),
    ("q, Ctrl-C", "leave; the deployment goes on"),
)


@dataclass(frozen=True)
class View:
    """`chosen` is an instance's name ("" for the first there is), `scroll`: lines from the top of another page, or from its end.

    `asking`: whom a y would restart. `restart`: whom to restart now. `said`: the line at the bottom, "" for the usual one.
    """

    page: str = INSTANCES
    sort: str = "trouble"
    chosen: str = ""
    scroll: int = 0
    held: bool = False
    asking: str = ""
    restart: str = ""
    said: str = ""
    left: bool = False


def ordered(shot: Snapshot, sort: str) -> list[InstanceRow]:
    """The instances in the order of a sort; those that are alike stay in the order of the plan."""
    return sorted(shot["instances"], key=SORTS[sort])


def chosen(view: View, shot: Snapshot) -> Optional[InstanceRow]:
    """The chosen instance's row; None if there are no instances."""
    rows = ordered(shot, view.sort)
    return next((one for one in rows if one["name"] == view.chosen), rows[0] if rows else None)


def pressed(view: View, key: str, shot: Snapshot) -> View:
    """The view after a key."""
    if view.asking:
        return replace(view, asking="", restart=view.asking if key in ("y", "Y") else "", said="" if key in ("y", "Y") else "not restarted")
    view = replace(view, said="")
    if key in ("q", "Q", "\x03"):
        return replace(view, left=True)
    if key in STEPS:
        return _moved(view, STEPS[key], shot)
    if key in PAGES:
        return replace(view, page=INSTANCES if view.page == PAGES[key] else PAGES[key], scroll=0)
    if key in BACK:
        return replace(view, page=INSTANCES, scroll=0)
    if key == " ":
        return replace(view, held=not view.held)
    if key == "s":
        names = list(SORTS)
        return replace(view, sort=names[(names.index(view.sort) + 1) % len(names)], page=INSTANCES)
    if key == "r":
        one = chosen(view, shot)
        return replace(view, asking=one["name"], chosen=one["name"]) if one else view
    return view


def _moved(view: View, step: int, shot: Snapshot) -> View:
    if view.page != INSTANCES:
        return replace(view, scroll=max(0, view.scroll + (-step if view.page in FROM_END else step)))
    names = [one["name"] for one in ordered(shot, view.sort)]
    if not names:
        return view
    at = names.index(view.chosen) if view.chosen in names else 0
    return replace(view, chosen=names[max(0, min(len(names) - 1, at + step))])
