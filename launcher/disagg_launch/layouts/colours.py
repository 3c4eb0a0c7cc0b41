"""Colours of instances: cool ones for context, warm ones for generation, neighbours unlike; for light and for dark."""

from __future__ import annotations

from disagg_launch.plan import CONTEXT, Plan

# (light, dark) backgrounds; text on them is dark on light and light on dark
COOL = (("#a9d3f5", "#1d5a8c"), ("#9fe0d8", "#12665e"), ("#c3c9fb", "#454e9e"), ("#b4e7f7", "#13697f"), ("#d8c7f7", "#62459a"))
WARM = (("#fbd38d", "#8a5a10"), ("#f7b5a6", "#8f3d2a"), ("#e9e08a", "#6d6512"), ("#f5b8d5", "#8c3160"), ("#cfe3a1", "#4d681b"))


def classes(plan: Plan) -> dict[str, str]:
    """The CSS class of each instance, c0.. or g0.., the same for every fifth of a role."""
    out: dict[str, str] = {}
    count = {True: 0, False: 0}
    for one in plan.instances:
        cool = one.role == CONTEXT
        out[one.name] = f"{'c' if cool else 'g'}{count[cool] % len(COOL)}"
        count[cool] += 1
    return out


def variables(dark: bool) -> str:
    """CSS custom properties: --c0.. and --g0.. for instances, --paper, --ink, --faint, --line, --hole for the rest."""
    pairs = [(f"c{i}", pair) for i, pair in enumerate(COOL)] + [(f"g{i}", pair) for i, pair in enumerate(WARM)]
    pairs += [
        ("paper", ("#ffffff", "#15181c")),
        ("ink", ("#1b1f24", "#e8eaed")),
        ("faint", ("#5d6670", "#9aa4af")),
        ("line", ("#d5dae0", "#343b44")),
        ("hole", ("#eef1f4", "#22272e")),
    ]
    return "".join(f"--{name}:{pair[dark]};" for name, pair in pairs)


def stylesheet(fill: str) -> str:
    """The custom properties for both schemes, and a rule for each class that sets `fill` to its colour."""
    rules = "".join(f".{kind}{i}{{{fill}:var(--{kind}{i})}}" for kind in "cg" for i in range(len(COOL)))
    return f":root{{{variables(False)}}}@media(prefers-color-scheme:dark){{:root{{{variables(True)}}}}}{rules}"
