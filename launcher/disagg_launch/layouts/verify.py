"""Whether a form says what the plan says: every claim in it is held against the plan, and every rank must be claimed once."""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional, Sequence

from disagg_launch.layouts.forms import parts
from disagg_launch.layouts.readers import Claim
from disagg_launch.layouts.table import Form
from disagg_launch.plan import Plan

Truth = dict[str, dict[Any, Claim]]


def disagreement(form: Form, text: str, plan: Plan, hosts: Sequence[str]) -> Optional[str]:
    """The first thing that a form's text says otherwise than the plan, with both rows; None if they agree."""
    truth = facts(plan, hosts)
    seen: Counter[tuple[str, Any]] = Counter()
    try:
        for claim in form.read(text):
            (subject, which), *_ = claim.items()
            wrong = _against(claim, truth[subject].get(which))
            seen[subject, which] += 1
            if wrong or seen[subject, which] > 1:
                return wrong or f"{subject} {which} is there twice"
    except (ValueError, KeyError, IndexError, SyntaxError) as broken:
        return f"cannot be read: {broken}"
    for subject in {subject for subject, _ in seen} - {"mapping"} or ({"rank"} if plan.ranks and not seen else set()):
        for which, row in truth[subject].items():
            if (subject, which) not in seen:
                return f"{subject} {which} is missing; the plan has {_row(row)}"
    return None


def facts(plan: Plan, hosts: Sequence[str]) -> Truth:
    """All that forms may claim: about ranks, nodes, hosts, components of a job, and Open MPI's mapping policies."""
    ranks_on = Counter(rank.node for rank in plan.ranks)
    in_turn = sorted(range(len(plan.ranks)), key=lambda i: plan.ranks[i].node) == list(range(len(plan.ranks)))
    each = set(ranks_on.values())
    return {
        "rank": {rank.rank: {**vars(rank), "host": hosts[rank.node], "digest": plan.digest} for rank in plan.ranks},
        "node": {node: {"node": node, "host": hosts[node]} for node in range(plan.node_count)},
        "host": {hosts[node]: {"host": hosts[node], "ranks": count} for node, count in ranks_on.items()},
        "part": {i: {"part": i, "nodes": p.nodes, "tasks": p.tasks, "gpus": p.gpus} for i, p in enumerate(parts(plan))},
        "mapping": {"seq": {"mapping": "seq"}, "ppr": {"mapping": "ppr", "ranks": each.pop() if in_turn and len(each) == 1 else None}},
    }


def _against(claim: Claim, row: Optional[Claim]) -> Optional[str]:
    if row is None:
        return f"says {_row(claim)}, which is not in the plan"
    if all(row.get(key) == value for key, value in claim.items()):
        return None
    return f"says     {_row(claim)}\n  plan has {_row({key: row.get(key) for key in claim})}"


def _row(claim: Claim) -> str:
    return " ".join(f"{key}={value}" for key, value in claim.items())
