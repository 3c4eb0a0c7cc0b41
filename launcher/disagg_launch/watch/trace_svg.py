"""A start-up trace as SVG: phases on top, below them a bar for each instance, coloured by what it was doing. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from xml.sax.saxutils import escape

from disagg_launch.layouts.colours import variables
from disagg_launch.place.numbers import counted
from disagg_launch.watch.trace import FIRST_TOKEN, HEALTHY, OPEN, Instance, Phase, Trace

EDGE, HEAD, LEGEND, AXIS = 16, 58, 26, 24
MARGIN, WIDE, RIGHT = 104, 720, 130
LONGEST = 1.3  # a first token is drawn if it came within so many times the rest
FEW = 48  # so many instances have rows with names; more have thin rows
PHASE_HIGH = 18
# of stages in the order in which they come: (light, dark)
STAGES = {
    "started": ("#c9ced6", "#4a525c"),
    "role taken": ("#a9d3f5", "#1d5a8c"),
    "engine starting": ("#c3c9fb", "#454e9e"),
    "loading": ("#fbd38d", "#8a5a10"),
    "listening": ("#f5b8d5", "#8c3160"),
    HEALTHY: ("#cdeed5", "#24502f"),
    "proved": ("#b4e3bf", "#2b6039"),
    "routed": ("#9fdcae", "#2b6e3f"),
}
OTHER = ("#dfe3e8", "#3a424c")


class Scale(NamedTuple):
    """Seconds to pixels, and how high a row is."""

    from_s: float
    per_s: float
    row: int
    gap: int

    def x(self, at_s: float) -> float:
        """Where a moment lies."""
        return round(EDGE + MARGIN + (at_s - self.from_s) * self.per_s, 1)


def picture(made: Trace) -> str:
    """The SVG text; it stands for itself in light and in dark, and each bar says what it is when pointed at."""
    from_s, to_s = _range(made)
    few = len(made.instances) <= FEW
    scale = Scale(from_s, WIDE / (to_s - from_s), 16 if few else 3, 4 if few else 1)
    rows = sorted(made.instances, key=lambda one: (one.healthy_s is None, one.healthy_s or 0.0)) if not few else made.instances
    top = HEAD + LEGEND + (PHASE_HIGH + 2) * len(made.phases) + 14
    bottom = top + len(rows) * (scale.row + scale.gap)
    width, height = EDGE * 2 + MARGIN + WIDE + RIGHT, bottom + AXIS + EDGE
    body = [
        *_legend(made),
        *_axis(scale, to_s, HEAD + LEGEND, bottom),
        *_phases(made.phases, scale, HEAD + LEGEND),
        *(part for n, one in enumerate(rows) for part in _row(one, scale, top + n * (scale.row + scale.gap), to_s, few)),
    ]
    many = counted(len(made.instances), "instance")
    own = f"; the launcher's own share is {made.overhead_s:.2f} s" if made.overhead_s is not None else ""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
            f"<title>start-up of {escape(made.name)}</title>",
            f"<style>{_style()}</style>",
            f'<rect class="paper" width="{width}" height="{height}"/>',
            f'<text class="h" x="{EDGE}" y="26">start-up of {escape(made.name)}</text>',
            f'<text class="f" x="{EDGE}" y="46">plan {made.digest}, {many}, seconds since the gateway began{own}</text>',
            *body,
            "</svg>\n",
        )
    )


def _range(made: Trace) -> tuple[float, float]:
    """From the first phase to the last; a first token that nobody asked for until much later would squeeze all else together."""
    ends = [phase.at_s for phase in made.phases if phase.name != FIRST_TOKEN]
    if OPEN not in [phase.name for phase in made.phases]:
        ends += [one.healthy_s or 0.0 for one in made.instances]  # later ones were added to it
    from_s, to_s = min([0.0, *ends]), max(ends, default=0.0)
    first = next((phase.at_s for phase in made.phases if phase.name == FIRST_TOKEN), to_s)
    return from_s, max(first if first - from_s <= LONGEST * (to_s - from_s) else to_s, from_s + 0.1)


def _style() -> str:
    names = {name: f"s{n}" for n, name in enumerate(STAGES)}
    light, dark = ("".join(f"--{names[s]}:{STAGES[s][which]};" for s in STAGES) + f"--so:{OTHER[which]};" for which in (0, 1))
    fills = "".join(f".{one}{{fill:var(--{one})}}" for one in (*names.values(), "so"))
    return (
        f":root{{{variables(False)}{light}}}@media(prefers-color-scheme:dark){{:root{{{variables(True)}{dark}}}}}{fills}"
        "text{font:12px ui-monospace,monospace;fill:var(--ink)}.h{font-size:15px;font-weight:bold}.f{fill:var(--faint)}"
        ".paper{fill:var(--paper)}"
        ".line{stroke:var(--line);stroke-width:1}.p{fill:var(--faint);opacity:.45}.e{text-anchor:end}.m{text-anchor:middle}"
    )


def _class(stage: str) -> str:
    return f"s{list(STAGES).index(stage)}" if stage in STAGES else "so"


def _legend(made: Trace) -> Iterator[str]:
    x = EDGE
    for stage in [s for s in STAGES if any(span.stage == s for one in made.instances for span in one.spans)]:
        yield f'<rect class="{_class(stage)}" x="{x}" y="{HEAD}" width="12" height="12"/><text x="{x + 17}" y="{HEAD + 10}">{stage}</text>'
        x += 17 + len(stage) * 8 + 18


def _axis(scale: Scale, to_s: float, top: int, bottom: int) -> Iterator[str]:
    """A line every 1, 2 or 5 times a power of ten seconds, at most ten of them."""
    span_s = to_s - scale.from_s
    step = next(base * 10.0**power for power in range(-3, 7) for base in (1, 2, 5) if span_s / (base * 10.0**power) <= 10)
    tick = -(-scale.from_s // step) * step
    while tick <= to_s:
        x = scale.x(tick)
        yield f'<line class="line" x1="{x}" x2="{x}" y1="{top}" y2="{bottom + 4}"/>'
        yield f'<text class="f m" x="{x}" y="{bottom + 18}">{tick:g} s</text>'
        tick += step


def _phases(phases: tuple[Phase, ...], scale: Scale, top: int) -> Iterator[str]:
    """Each phase on a line of its own, from the end of the one before."""
    for n, phase in enumerate(phases):
        y = top + n * (PHASE_HIGH + 2)
        x, right = scale.x(phase.at_s - phase.took_s), min(scale.x(phase.at_s), EDGE + MARGIN + WIDE)
        said = f"{phase.name}: reached at {phase.at_s:.2f} s, took {phase.took_s:.2f} s" + (f", last {phase.last}" if phase.last else "")
        box = f'x="{x}" y="{y + 2}" width="{max(1.0, round(right - x, 1))}" height="{PHASE_HIGH - 4}"'
        yield f'<rect class="p" {box}><title>{escape(said)}</title></rect>'
        yield f'<text class="e" x="{EDGE + MARGIN - 8}" y="{y + 13}">{escape(phase.name)}</text>'
        last = f" {phase.last}" if phase.last else ""
        yield f'<text class="f" x="{right + 6}" y="{y + 13}">{phase.took_s:.2f} s{escape(last)}</text>'


def _row(one: Instance, scale: Scale, y: int, to_s: float, named: bool) -> Iterator[str]:
    if named:
        yield f'<text class="e" x="{EDGE + MARGIN - 8}" y="{y + 12}">{escape(one.name)}</text>'
    for span in one.spans:
        if span.from_s < to_s:
            end_s = min(to_s, to_s if span.to_s is None else span.to_s)
            x = scale.x(span.from_s)
            said = f"{one.name}: {span.stage}, {span.from_s:.2f} s to {end_s:.2f} s" + (f", start {span.life}" if span.life > 1 else "")
            box = f'x="{x}" y="{y}" width="{max(0.5, round(scale.x(end_s) - x, 1))}" height="{scale.row}"'
            yield f'<rect class="{_class(span.stage)}" {box}><title>{escape(said)}</title></rect>'
    if named and one.own_s is not None:
        yield f'<text class="f" x="{scale.x(to_s) + 6}" y="{y + 12}">{one.own_s:.2f} s</text>'
