"""What is wrong before anything is submitted: numbered rules over a topology and its plan.

`check(spec, plan)` gives the complaints; `lint: {ignore: [DL004]}` in the file keeps a rule quiet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from disagg_launch.lint.rule import Case, Rule, read_document
from disagg_launch.lint.rules import discovery, front_door, kv, layout, model, running
from disagg_launch.plan import Plan
from disagg_launch.spec import WARNING, Complaint, Spec
from disagg_launch.spec.complaint import did_you_mean
from disagg_launch.weights import on_disk

RULES: dict[str, Rule] = {
    one.number: one
    for one in sorted(
        (
            value
            for module in (layout, kv, discovery, model, running, front_door)
            for value in vars(module).values()
            if isinstance(value, Rule)
        ),
        key=lambda one: one.number,
    )
}


def check(
    spec: Spec,
    plan: Optional[Plan] = None,
    document: Callable[[str, str], dict[str, Any]] = read_document,
    weights: Callable[[str], int] = on_disk,
) -> tuple[Complaint, ...]:
    """What the rules say, and what loading warned of, in the order of the file; without a plan only the rules that need none.

    `document` reads a JSON file from a model's directory, `weights` the size of the weights in it.
    """
    case = Case(spec, plan, document, weights)
    ignored = set(spec.lint.ignore)
    found = [complaint for one in RULES.values() if one.number not in ignored for complaint in one.check(case)]
    for i, number in enumerate(spec.lint.ignore):
        if number not in RULES:
            text = f"there is no rule {number}{did_you_mean(number, RULES)}"
            found.append(spec.source.complaint(("lint", "ignore", i), text, severity=WARNING))
    return tuple(sorted({*spec.warnings, *found}))


def table() -> str:
    """docs/lint.md: every rule, from the rules themselves."""
    lines = ["# Lint rules", "", "Written by `disagg-launch lint --table`; a test holds this file to the rules.", ""]
    lines += ["`disagg-launch lint SPEC` and `plan` say them with file, line and column; errors stop, warnings do not.", ""]
    lines += ["Quiet one with `lint: {ignore: [DL004]}` in the topology file; `disagg-launch lint --explain DL012` prints one.", ""]
    lines += ["| rule | severity | what is wrong | what happens | what to do | known from |", "|---|---|---|---|---|---|"]
    for one in RULES.values():
        lines.append(f"| {one.number} | {one.severity} | {one.title} | {one.why} | {one.fix} | {one.source} |")
    return "\n".join(lines) + "\n"


def explain(number: str) -> str:
    """A rule in five lines; KeyError if there is none of that number."""
    one = RULES[number]
    return f"{one.number} ({one.severity}): {one.title}\n  why: {one.why}\n  fix: {one.fix}\n  source: {one.source}\n"
