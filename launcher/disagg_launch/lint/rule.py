"""What a lint rule is: a number, words about it, and a small function from a Case to findings."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional

from disagg_launch.plan import SECTION, Plan
from disagg_launch.spec import ERROR, WARNING, Complaint, Section, Spec
from disagg_launch.spec.complaint import Path

Finding = tuple[Path, str]
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """What rules look at: the topology, and its plan if it has one.

    `document(model, name)` gives a JSON file from the model's directory, {} if it is not at hand; `weights(model)` the bytes of its
    weights, 0 if they are not.
    """

    spec: Spec
    plan: Optional[Plan]
    document: Callable[[str, str], dict[str, Any]]
    weights: Callable[[str], int]

    def sides(self) -> list[tuple[str, Section]]:
        """(section key, section) of the roles that have instances, context first."""
        both = ((key, self.spec.section(role)) for role, key in SECTION.items())
        return [(key, section) for key, section in both if section.num_instances]

    def pair(self) -> Optional[tuple[Section, Section]]:
        """(context, generation) if both have instances, so that they have to agree."""
        sides = self.sides()
        return (sides[0][1], sides[1][1]) if len(sides) == 2 else None

    def node_count(self) -> int:
        """Nodes in use: the plan's, or as far as the file tells."""
        groups = sum(group.nodes for group in self.spec.cluster.groups)
        return self.plan.node_count if self.plan else groups or self.spec.cluster.nodes or 1


@dataclass(frozen=True)
class Rule:
    """`title` says what is wrong, `why` what happens then, `fix` what to do, `source` where that is known from."""

    number: str
    severity: str
    title: str
    why: str
    fix: str
    source: str
    find: Callable[[Case], Iterator[Finding]]

    def check(self, case: Case) -> list[Complaint]:
        """The rule's findings as complaints at their places in the file."""
        place = case.spec.source
        return [place.complaint(place.written(path), text, severity=self.severity, number=self.number) for path, text in self.find(case)]


def rule(
    number: str, severity: str, title: str, *, why: str, fix: str, source: str
) -> Callable[[Callable[[Case], Iterator[Finding]]], Rule]:
    """A decorator that makes a Rule of its finding function."""
    return lambda find: Rule(number, severity, title, why, fix, source, find)


def inner(section: Section, *path: str) -> Any:
    """The engine key at `path` of a section; None if it is not there."""
    here: Any = section.engine_keys
    for part in path:
        here = here.get(part) if isinstance(here, dict) else None
    return here


def read_document(model: str, name: str) -> dict[str, Any]:
    """The JSON file `name` in the directory `model`; {} if there is none, or it is not a map, or too large to be one."""
    path = pathlib.Path(model, name)
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}


__all__ = ["ERROR", "SECTION", "WARNING", "Case", "Finding", "Rule", "inner", "read_document", "rule"]
