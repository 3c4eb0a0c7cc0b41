"""What of a wish fits on the nodes that a deployment has, and the topology of a further Slurm job for the rest. Pure."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Optional

import yaml

from disagg_launch.discovery import growth
from disagg_launch.errors import DoesNotFit
from disagg_launch.plan import PREFIX, Plan
from disagg_launch.runtime.cluster import TOKEN_FILE

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

# what counts for the first job only: its nodes, who answers its clients, and how often it is to be sent
OWN = ("hostname", "port", "router", "autoscale")
OWN_CLUSTER = ("nodes", "spare_nodes", "pins", "exclude")
OWN_SLURM = ("array", "job_name", "nodelist", "dependency")


def within(spec: Spec, plan: Plan, nodes: Optional[int], gone: Collection[int]) -> Spec:
    """The spec for planning inside the `nodes` that there are (None: as many as are wanted), of which some are `gone`.

    How many instances are enough is for all jobs together, so here one of each role is.
    """
    from disagg_launch.spec.model import MinimalInstances

    found = spec.disagg_cluster and spec.disagg_cluster.model_copy(update={"minimal_instances": MinimalInstances()})
    if nodes is None:
        return spec.model_copy(update={"disagg_cluster": found})
    held: dict[int, set[int]] = {node: set() for node in gone}
    for row in plan.ranks:
        held.get(row.node, set()).add(row.gpu)
    # not the nodes themselves: who is stopped there keeps its place in the plan
    closed = {node: tuple(gpu for gpu in range(plan.gpus_per_node) if gpu not in taken) for node, taken in held.items()}
    exclude = spec.cluster.exclude.model_copy(update={"gpus": {**spec.cluster.exclude.gpus, **closed}})
    cluster = spec.cluster.model_copy(update={"nodes": None if spec.cluster.groups else nodes, "spare_nodes": 0, "exclude": exclude})
    return spec.model_copy(update={"cluster": cluster, "disagg_cluster": found})


def buried(plan: Plan, resting: Iterable[str], gone: Collection[int]) -> set[str]:
    """Those who were stopped and cannot be started again, because a node of theirs is gone."""
    return {name for name in resting if set(plan.instance(name).nodes) & set(gone)}


def fitting(spec: Spec, plan: Plan, resting: Collection[str], lost: Collection[str], wanted: Mapping[str, int]) -> dict[str, int]:
    """The largest part of `wanted` instances by role for which there is room, context first; not less than run now or are wanted."""
    got = {role: min(wanted[role], sum(one.role == role and one.name not in resting for one in plan.instances)) for role in growth.ROLES}
    for role in growth.ROLES:
        got[role] = next((n for n in range(wanted[role], got[role], -1) if _fits(spec, plan, resting, lost, {**got, role: n})), got[role])
    return got


def _fits(spec: Spec, plan: Plan, resting: Collection[str], lost: Collection[str], wanted: dict[str, int]) -> bool:
    try:
        growth.change(spec, plan, resting, wanted, lost)
    except DoesNotFit:
        return False
    return True


def topology(spec: Spec, name: str, counts: Mapping[str, int], uri: str, run: str) -> str:
    """The topology file of a further job: `counts` instances by role, which register at `uri`; `run` is the run folder they add to."""
    values: dict[str, Any] = copy.deepcopy(spec.source.values)
    for key in OWN:
        values.pop(key, None)
    for key, own in (("cluster", OWN_CLUSTER), ("slurm", OWN_SLURM)):
        values[key] = {k: v for k, v in (values.get(key) or {}).items() if k not in own}
    for role in growth.ROLES:
        values[f"{role}_servers"] = {**(values.get(f"{role}_servers") or {}), "num_instances": counts[role]}
    values["name"] = name
    values["disagg_cluster"] = {**values["disagg_cluster"], "cluster_uri": uri}
    values["router"] = {"name": "none", "run": run}
    values["env"] = {**(values.get("env") or {}), TOKEN_FILE: f"{run}/state/token"}
    told = ", ".join(f"{PREFIX[role]} {count}" for role, count in counts.items() if count)
    head = f"# A further job of {run}: {told}. Made by `disagg-launch scale`.\n"
    # ASCII: PyYAML writes some Unicode line breaks in a form that it reads back as other text
    return head + yaml.safe_dump(values, sort_keys=False, width=10_000)
