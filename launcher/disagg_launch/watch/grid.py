"""Nodes x GPUs in characters: a letter for each GPU says whose it is and how that instance is. Pure."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text

from disagg_launch.place.numbers import ranges
from disagg_launch.plan import CONTEXT
from disagg_launch.watch.shape import InstanceRow, Node, Snapshot
from disagg_launch.watch.snapshot import ENDED, NOT_RUNNING
from disagg_launch.watch.words import trouble

LEGEND = ("C G healthy context and generation instances; c g not healthy (yet)", "!   ended   -   stopped on purpose   .   a free GPU")
FREE, GONE, AT_REST = ".", "!", "-"
# instances that lie side by side are told apart by shade
SHADES = {True: ("cyan", "bright_blue"), False: ("magenta", "bright_yellow")}
GAP = "  "


def grid(shot: Snapshot, width: int, hosts: bool) -> list[Text]:
    """A cell for each node, as many in a line as fit; `hosts` names them. Without hosts neighbours that look alike are one cell."""
    letters = _letters(shot)
    cells = [
        (node, [letters.get((node["node"], gpu), (FREE, "dim")) for gpu in range(node["gpus"])]) for node in shot["nodes"] if node["gpus"]
    ]
    if hosts:
        groups = [[cell] for cell in cells]
    else:
        groups = [list(group) for _, group in groupby(cells, key=lambda cell: [letter for letter, _ in cell[1]])]
    labels = [_label([node for node, _ in group], hosts) for group in groups]
    margin = max(map(len, labels), default=0)
    made = [Text(label.ljust(margin) + " ", style="dim") + _joined(group[0][1]) for label, group in zip(labels, groups)]
    return _in_columns(made, width)


def _label(nodes: list[Node], hosts: bool) -> str:
    return f"{nodes[0]['node']} {nodes[0]['host']}" if hosts else "node " + ranges(node["node"] for node in nodes)


def _letters(shot: Snapshot) -> dict[tuple[int, int], tuple[str, str]]:
    """(letter, style) by node and GPU."""
    out: dict[tuple[int, int], tuple[str, str]] = {}
    for number, one in enumerate(shot["instances"]):
        for rank in one["ranks"]:
            out[rank["node"], rank["gpu"]] = _letter(one), _style(one, number)
    return out


def _letter(one: InstanceRow) -> str:
    if one["stage"] in NOT_RUNNING:
        return GONE if one["stage"] == ENDED else AT_REST
    letter = "c" if one["role"] == CONTEXT else "g"
    return letter if trouble(one) == 2 else letter.upper()


def _style(one: InstanceRow, number: int) -> str:
    if one["stage"] == ENDED:
        return "bold red"
    shade = SHADES[one["role"] == CONTEXT][number % 2]
    return f"bold {shade}" if one["active"] else shade


def _joined(letters: list[tuple[str, str]]) -> Text:
    line = Text("[")
    for letter, style in letters:
        line.append(letter, style=style)
    return line.append("]")


def _in_columns(cells: list[Text], width: int) -> list[Text]:
    widest = max((len(cell) for cell in cells), default=1) + len(GAP)
    across = max(1, (width + len(GAP)) // widest)
    deep = -(-len(cells) // across)
    out = []
    for row in range(deep):
        line = Text()
        for cell in cells[row::deep]:  # down, then across
            line.append_text(cell).append(" " * (widest - len(cell)))
        out.append(line)
    return out
