"""The picture as SVG: a row of boxes for each node, a box for each GPU, coloured by instance."""

from __future__ import annotations

from typing import Iterator, NamedTuple, Sequence
from xml.sax.saxutils import escape

from disagg_launch.layouts.bars import Bar, Run, bars
from disagg_launch.layouts.colours import classes, stylesheet
from disagg_launch.place.numbers import counted
from disagg_launch.plan import Plan, Rank

HEAD, EDGE = 64, 16
FEW = 24  # so many nodes are drawn large, with coordinates in each box


class Scale(NamedTuple):
    """Sizes in pixels, and into how many columns the nodes go."""

    wide: int
    high: int
    gap: int
    margin: int
    letters: int
    columns: int


def picture(plan: Plan, hosts: Sequence[str]) -> str:
    """Picture: nodes x GPUs coloured by instance, as SVG, for documents."""
    every = bars(plan)
    scale = scale_of(every, hosts)
    rows = -(-len(every) // scale.columns)
    across = scale.margin + scale.wide * plan.gpus_per_node + EDGE
    width, height = max(480, EDGE + scale.columns * across), HEAD + rows * (scale.high + scale.gap) + EDGE
    colour = classes(plan)
    body: list[str] = []
    for i, bar in enumerate(every):
        x, y = EDGE + i // rows * across, HEAD + i % rows * (scale.high + scale.gap)
        body += _bar(bar, hosts[bar.node], x, y, scale, colour)
    style = stylesheet("fill") + (
        f"text{{font:{scale.letters}px ui-monospace,monospace;fill:var(--ink)}}"
        ".h{font-size:15px;font-weight:bold}.f{font-size:12px;fill:var(--faint)}.q{font-size:11px;opacity:.75}"
        ".p{fill:var(--paper)}.e{fill:var(--hole)}rect{stroke:var(--paper);stroke-width:1}"
    )
    free = sum(run.size for bar in every for run in bar.runs if not run.ranks)
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
            f"<style>{style}</style>",
            f'<rect class="p" width="{width}" height="{height}"/>',
            f'<text class="h" x="{EDGE}" y="26">{escape(plan.name)}</text>',
            f'<text class="f" x="{EDGE}" y="46">plan {plan.digest}: {escape(summary(plan, free))}</text>',
            *body,
            "</svg>\n",
        )
    )


def scale_of(every: Sequence[Bar], hosts: Sequence[str]) -> Scale:
    """Large boxes in one column for a few nodes, else small boxes in columns that make the picture about as wide as high."""
    longest = max((len(hosts[bar.node]) for bar in every), default=0)
    most = max((bar.gpus for bar in every), default=1)
    if len(every) <= FEW:
        return Scale(wide=92, high=38, gap=8, margin=longest * 8 + 14, letters=12, columns=1)
    across = longest * 6 + 10 + 12 * most + EDGE
    return Scale(
        wide=12, high=12, gap=3, margin=longest * 6 + 10, letters=9, columns=max(1, round((len(every) * 15 * 1.5 / across) ** 0.5))
    )


def summary(plan: Plan, free: int) -> str:
    """`3 instances, 8 ranks on 2 nodes, 0 GPUs free`."""
    counts = (len(plan.instances), "instance"), (len(plan.ranks), "rank"), (plan.node_count, "node"), (free, "GPU")
    return "{}, {} on {}, {} free".format(*(counted(*one) for one in counts))


def title(rank: Rank, host: str) -> str:
    """What is said of one box."""
    inside = f"rank {rank.instance_rank} (tp{rank.tp_rank} pp{rank.pp_rank})"
    return f"rank {rank.rank}: {rank.instance} {inside} on node {rank.node} ({host}) GPU {rank.gpu}"


def _bar(bar: Bar, host: str, x: int, y: int, scale: Scale, colour: dict[str, str]) -> Iterator[str]:
    baseline = y + scale.high // 2 + scale.letters // 3
    yield f'<text x="{x}" y="{baseline}">{escape(host)}</text>'
    for run in bar.runs:
        left = x + scale.margin + run.first * scale.wide
        yield from _boxes(run, host, left, y, scale, colour)
        if run.ranks and scale.wide < 40 and len(run.instance) * scale.letters * 0.6 <= run.size * scale.wide:
            yield f'<text x="{left + 2}" y="{baseline}" pointer-events="none">{escape(run.instance)}</text>'


def _boxes(run: Run, host: str, left: int, y: int, scale: Scale, colour: dict[str, str]) -> Iterator[str]:
    box = f'y="{y}" width="{scale.wide}" height="{scale.high}"'
    if not run.ranks:
        for i in range(run.size):
            yield f'<rect class="e" x="{left + i * scale.wide}" {box}/>'
    for i, rank in enumerate(run.ranks):
        x = left + i * scale.wide
        yield f'<rect class="{colour[rank.instance]}" x="{x}" {box}><title>{escape(title(rank, host))}</title></rect>'
        if scale.wide >= 40:
            yield f'<text x="{x + 6}" y="{y + 16}" pointer-events="none">{escape(rank.instance)}</text>'
            yield f'<text class="q" x="{x + 6}" y="{y + 31}" pointer-events="none">tp{rank.tp_rank} pp{rank.pp_rank}</text>'
