"""The plan for a terminal: a table of instances, a table of ranks if they are few, and nodes x GPUs as bars."""

from __future__ import annotations

from typing import Iterator, Sequence

from rich.text import Text

from disagg_launch.layouts.bars import Run, alike, bars
from disagg_launch.place.numbers import counted, ranges
from disagg_launch.plan import CONTEXT, Plan, Rank, shape

MOST_RANKS, MOST_LINES = 64, 48
COLOURS = {True: ("cyan", "blue", "bright_cyan", "bright_blue"), False: ("green", "yellow", "bright_green", "magenta")}
FREE = "."


def lines(plan: Plan, width: int = 80) -> Iterator[Text]:
    """The lines of the whole text, styled; as plain text they read the same."""
    what = f"{counted(len(plan.instances), 'instance')}, {counted(len(plan.ranks), 'rank')} on {counted(plan.node_count, 'node')}"
    yield Text(f"plan {plan.digest} of {plan.name}: {what}")
    if not plan.instances:
        yield Text("the servers run already, only the router is started: no map (engine, cluster, slurm, mpi) says how to start servers")
        return
    yield Text()
    yield from map(Text, table(*_instances(plan)))
    if len(plan.ranks) <= MOST_RANKS:
        yield Text()
        yield from map(Text, table(*_ranks(plan.ranks)))
    yield Text()
    yield from picture(plan, width)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of columns two blanks apart; columns of numbers are set to the right."""
    cells = [list(head)] + [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    return ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)).rstrip() for row in cells]


def _instances(plan: Plan) -> tuple[list[str], list[list[object]]]:
    """A row for each instance; instances in the middle of a long list are left out."""
    rows: list[list[object]] = []
    for one in plan.instances[:MOST_LINES]:
        tp, pp = shape(plan, one.name)
        gpus = ranges(rank.gpu for rank in plan.ranks_of(one.name))
        ranks = ranges((one.first_rank, *range(one.first_rank, one.first_rank + one.size)))
        rows.append([one.name, one.role, ranks, tp, pp, one.size // (tp * pp), ranges(one.nodes), gpus, one.port])
    rest = len(plan.instances) - MOST_LINES
    if rest > 0:
        rows.append([f"... {rest} more", "", "", *[""] * 6])
    return ["instance", "role", "ranks", "tp", "pp", "cp", "nodes", "gpus", "port"], rows


def _ranks(ranks: Sequence[Rank]) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = [[r.rank, r.instance, r.instance_rank, r.tp_rank, r.pp_rank, r.node, r.gpu] for r in ranks]
    return ["rank", "instance", "instance rank", "tp", "pp", "node", "gpu"], rows


def picture(plan: Plan, width: int = 80) -> Iterator[Text]:
    """A bar for each node: `[ctx0 tp0-1]` is one instance's GPUs, a dot a free one. Nodes that show the same are one line."""
    groups = alike(bars(plan))
    labels = ["node " + ranges(bar.node for bar in group) for group in groups]
    margin = max(map(len, labels[:MOST_LINES]), default=0) + 2
    cell = max(2, min(8, (width - margin) // max(1, plan.gpus_per_node)))
    colour = {one.name: COLOURS[one.role == CONTEXT][i % 4] for i, one in enumerate(plan.instances)}
    for label, group in list(zip(labels, groups))[:MOST_LINES]:
        line = Text(label.ljust(margin))
        for i, run in enumerate(group[0].runs):
            same = Run(run.first, run.size, tuple(rank for bar in group for rank in bar.runs[i].ranks))
            line.append(_cell(same, run.size * cell, cell), style=colour.get(run.instance, "dim"))
        yield line
    hidden = sum(map(len, groups[MOST_LINES:]))
    if hidden:
        yield Text(f"... and {hidden} more nodes: `disagg-launch layout write SPEC --form html` shows them all")


def _cell(run: Run, width: int, cell: int) -> str:
    """The run's text in exactly `width` characters; as much of name and coordinates as there is room for."""
    if not run.ranks:
        return FREE.ljust(cell) * run.size
    room = width - 2
    name = run.instance
    short = name[:1] + name.lstrip("abcdefghijklmnopqrstuvwxyz")
    for text in (f"{name} {run.coordinates()}", f"{name} tp{ranges(r.tp_rank for r in run.ranks)}", name, short, ""):
        if len(text) <= room:
            break
    return f"[{text.ljust(room)}]"
