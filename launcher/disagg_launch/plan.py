"""The plan: one row per rank, and everything that can be read off it. Standard library only (it travels in runtime.pyz)."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

VERSION = 1
CONTEXT, GENERATION = "context", "generation"
PREFIX = {CONTEXT: "ctx", GENERATION: "gen"}
SECTION = {CONTEXT: "context_servers", GENERATION: "generation_servers"}
"""The key of a role's servers in a topology file and in TensorRT-LLM's files."""


@dataclass(frozen=True)
class Rank:
    """One row of the plan. `rank` is global, `instance_rank` local; `gpu` is the slot number on node `node`."""

    rank: int
    instance: str
    role: str
    instance_rank: int
    tp_rank: int
    pp_rank: int
    node: int
    gpu: int


@dataclass(frozen=True)
class Instance:
    """One model replica: ranks first_rank .. first_rank+size-1 on `nodes` (numbers, in rank order, each once).

    The first rank's node owns `port`, the instance's HTTP port.
    """

    name: str
    role: str
    first_rank: int
    size: int
    nodes: tuple[int, ...]
    port: int


@dataclass(frozen=True)
class Step:
    """One MPI world or process group started by one command: ranks first_rank .. first_rank+size-1 of the plan."""

    name: str
    first_rank: int
    size: int
    nodes: tuple[int, ...]
    instances: tuple[str, ...]


@dataclass(frozen=True)
class NodeGroup:
    """Nodes first_node .. first_node+count-1 have `gpus_per_node` slots each (only plans with unlike nodes have groups)."""

    name: str
    first_node: int
    count: int
    gpus_per_node: int


@dataclass(frozen=True)
class Plan:
    """The rank layout. `ranks` is sorted by rank; `gpus_per_node` is the largest of all nodes; units are counts.

    `digest` is over everything else, so two plans are equal if and only if their digests are.
    """

    name: str
    node_count: int
    gpus_per_node: int
    instances: tuple[Instance, ...]
    ranks: tuple[Rank, ...]
    router: dict[str, Any] = field(default_factory=dict)
    groups: tuple[NodeGroup, ...] = ()
    version: int = VERSION
    digest: str = ""

    def sealed(self) -> Plan:
        """The same plan with its digest filled in."""
        return replace(self, digest=digest(self))

    def instance(self, name: str) -> Instance:
        """The instance called `name`; KeyError if there is none."""
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, Instance]:
        # many ask for every instance in turn, and a plan may have a hundred thousand
        return {one.name: one for one in self.instances}

    def ranks_of(self, name: str) -> tuple[Rank, ...]:
        """The rows of one instance, in order of instance_rank."""
        one = self.instance(name)
        return self.ranks[one.first_rank : one.first_rank + one.size]


def shape(plan: Plan, name: str) -> tuple[int, int]:
    """(tp, pp) of an instance, read off its rows; context parallel = size / (tp * pp)."""
    rows = plan.ranks_of(name)
    return 1 + max(r.tp_rank for r in rows), 1 + max(r.pp_rank for r in rows)


def steps_per_instance(plan: Plan) -> tuple[Step, ...]:
    """One step for each instance, in plan order."""
    return tuple(Step(i.name, i.first_rank, i.size, i.nodes, (i.name,)) for i in plan.instances)


def step_of_world(plan: Plan) -> Step:
    """The one step that holds every rank of the plan."""
    nodes = tuple(sorted({n for i in plan.instances for n in i.nodes}))
    return Step("world", 0, len(plan.ranks), nodes, tuple(i.name for i in plan.instances))


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values; `groups` is left out when the nodes are alike."""
    out: dict[str, Any] = {"version": plan.version, "digest": plan.digest, "name": plan.name, "node_count": plan.node_count}
    out["gpus_per_node"] = plan.gpus_per_node
    if plan.groups:
        out["groups"] = [asdict(g) for g in plan.groups]
    out["router"] = plan.router
    out["instances"] = [{**vars(i), "nodes": list(i.nodes)} for i in plan.instances]
    out["ranks"] = [dict(vars(r)) for r in plan.ranks]
    return out


def to_json(plan: Plan) -> str:
    """plan.json: one line per instance and per rank, so that a diff of two plans is readable. Ends with a newline."""
    head = as_dict(plan)
    tables = {key: head.pop(key) for key in ("groups", "instances", "ranks") if key in head}
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    for key, rows in tables.items():
        body = ",\n".join("    " + json.dumps(row) for row in rows)
        lines.append(f"  {json.dumps(key)}: [\n{body}\n  ]" if rows else f"  {json.dumps(key)}: []")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> Plan:
    """The plan that `to_json` wrote. ValueError if the version or the digest is not right."""
    raw = json.loads(text)
    if raw.get("version") != VERSION:
        raise ValueError(f"plan version {raw.get('version')!r} found, {VERSION} needed: render the plan again")
    plan = Plan(
        name=raw["name"],
        node_count=raw["node_count"],
        gpus_per_node=raw["gpus_per_node"],
        instances=tuple(Instance(**{**i, "nodes": tuple(i["nodes"])}) for i in raw["instances"]),
        ranks=tuple(Rank(**r) for r in raw["ranks"]),
        router=raw["router"],
        groups=tuple(NodeGroup(**g) for g in raw.get("groups", ())),
        version=raw["version"],
        digest=raw["digest"],
    )
    if digest(plan) != plan.digest:
        raise ValueError(f"the plan's digest is {plan.digest}, its content's is {digest(plan)}: it was edited by hand; render it again")
    return plan


def digest(plan: Plan) -> str:
    """12 hex digits of SHA-256 over the plan without its digest."""
    body = as_dict(plan)
    del body["digest"]
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
