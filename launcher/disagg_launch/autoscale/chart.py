"""A simulation as SVG: for each role requests, instances and waits over time, in the colours of the layouts' pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from disagg_launch.autoscale.outcome import sums
from disagg_launch.autoscale.simulate import Model, Moment
from disagg_launch.layouts.colours import COOL, WARM, stylesheet
from disagg_launch.plan import CONTEXT, PREFIX

WIDTH, LEFT, RIGHT, HEAD, STRIP, GAP, FOOT = 960, 76, 24, 78, 84, 30, 34
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
MOST_TICKS = 12
STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:var(--ink)}.h{font-size:15px;font-weight:bold}.f{fill:var(--faint)}"
    ".p{fill:var(--paper)}.g{stroke:var(--line);fill:none}.t{stroke:var(--faint);fill:none;stroke-dasharray:5 4}"
    ".lc,.lg{fill:none;stroke-width:2}.ac{fill:var(--c0)}.ag{fill:var(--g0)}"
    # the colours are made for areas with text on them: a line stands out in the other scheme's
    f".lc{{stroke:{COOL[0][1]}}}.lg{{stroke:{WARM[0][1]}}}"
    f"@media(prefers-color-scheme:dark){{.lc{{stroke:{COOL[0][0]}}}.lg{{stroke:{WARM[0][0]}}}}}"
)


class Strip(NamedTuple):
    """One curve: its caption, its values over time, dashed lines at some values, and whether the area below it is filled."""

    caption: str
    values: Sequence[float]
    marks: Sequence[float]
    area: bool


def picture(name: str, moments: Sequence[Moment], models: Mapping[str, Model]) -> str:
    """The whole picture."""
    times = [next(iter(moment.values())).seen.at_s for moment in moments]
    height = HEAD + len(models) * (3 * (STRIP + GAP)) + FOOT
    body: list[str] = []
    y = HEAD
    for role, model in models.items():
        for strip in strips(moments, role, model):
            body += _strip(strip, times, y, "c" if role == CONTEXT else "g")
            y += STRIP + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
    told = "; ".join(f"{PREFIX[role]}: {_about(moments, role, model)}" for role, model in models.items())
    return "\n".join(
        (
            head,
            f"<style>{stylesheet('fill')}{STYLE}</style>",
            f'<rect class="p" width="{WIDTH}" height="{height}"/>',
            f'<text class="h" x="16" y="24">{escape(name)}</text>',
            f'<text class="f" x="16" y="42">{escape(told)}</text>',
            *body,
            *_ticks(times, y - GAP),
            "</svg>\n",
        )
    )


def strips(moments: Sequence[Moment], role: str, model: Model) -> Iterator[Strip]:
    """The three curves of a role."""
    seen, prefix, target = [moment[role].seen for moment in moments], PREFIX[role], model.target
    yield Strip(f"{prefix} requests/s", [one.requests / one.span_s for one in seen], (), True)
    limits = (target.minimum, target.maximum) if target else ()
    yield Strip(f"{prefix} instances", [one.instances for one in seen], limits, False)
    looks_at_ttft = target is not None and bool(target.ttft_s)
    waits = [one.ttft_s if looks_at_ttft else max(one.queue_s, one.oldest_s) for one in seen]
    goals = [goal for goal in ((target.ttft_s if looks_at_ttft else target.queue_s) if target else 0,) if goal]
    yield Strip(f"{prefix} {'first token' if looks_at_ttft else 'wait'}, s", waits, goals, False)


def _about(moments: Sequence[Moment], role: str, model: Model) -> str:
    told = sums(moments, role, model)
    return f"{told['instance_hours']:.3g} instance hours, {told['changes']} changes, {told['share_inside_target']:.0%} inside the target"


def _strip(strip: Strip, times: Sequence[float], y: int, kind: str) -> Iterator[str]:
    top = max([*strip.values, *strip.marks, 1e-9]) * 1.08
    yield f'<text x="{LEFT}" y="{y - 6}">{escape(strip.caption)}</text>'
    yield f'<text class="f" x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{top / 1.08:.3g}</text>'
    yield f'<path class="g" d="M{LEFT} {y}V{y + STRIP}H{WIDTH - RIGHT}"/>'
    for mark in strip.marks:
        at = y + STRIP * (1 - mark / top)
        yield f'<path class="t" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
    xs = [_x(at_s, times) for at_s in times]
    ys = [y + STRIP * (1 - value / top) for value in strip.values]
    # each value holds for the span before it
    steps = "".join(f"V{up:.1f}H{x:.1f}" for x, up in zip(xs, ys))
    if strip.area:
        yield f'<path class="a{kind}" d="M{LEFT} {y + STRIP}{steps}V{y + STRIP}Z"/>'
    else:
        yield f'<path class="l{kind}" d="M{LEFT} {ys[0]:.1f}{steps}"/>'


def _x(at_s: float, times: Sequence[float]) -> float:
    first_s, last_s = _begin(times), times[-1]
    return LEFT + (WIDTH - RIGHT - LEFT) * (at_s - first_s) / (last_s - first_s)


def _begin(times: Sequence[float]) -> float:
    return times[0] - (times[1] - times[0] if len(times) > 1 else 1.0)


def _ticks(times: Sequence[float], y: int) -> Iterator[str]:
    first_s, whole_s = _begin(times), times[-1] - _begin(times)
    step_s = next((step for step in TICKS_S if whole_s / step <= MOST_TICKS), TICKS_S[-1])
    unit, label = (60, "min") if step_s >= 60 else (1, "s")
    for i in range(int(whole_s // step_s) + 1):
        x = _x(first_s + i * step_s, times)
        yield f'<path class="g" d="M{x:.1f} {y}v5"/>'
        yield f'<text class="f" x="{x:.1f}" y="{y + 19}" text-anchor="middle">{i * step_s // unit}</text>'
    yield f'<text class="f" x="{LEFT - 12}" y="{y + 19}" text-anchor="end">{label}</text>'
