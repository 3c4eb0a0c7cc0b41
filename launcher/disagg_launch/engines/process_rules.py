"""What vLLM and SGLang refuse, found before anything starts: shapes, connectors, versions. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from disagg_launch.engines import flags
from disagg_launch.plan import CONTEXT, GENERATION, SECTION, Plan
from disagg_launch.spec.complaint import ERROR, WARNING, Complaint, did_you_mean

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

# older versions have one more
CONNECTORS = (*flags.table("vllm")["connectors"], "P2pNcclConnector")
# Those that want something else of the front door than NIXL does: ids of their own, or to register with it.
OTHER_PROTOCOLS = {"MooncakeConnector": "mooncake", "MoRIIOConnector": "moriio", "P2pNcclConnector": None}
# vLLM's own multi-node form (--nnodes, --node-rank, --master-addr), before that only through Ray
NATIVE_NODES = "0.12.0"
BACKENDS = tuple(flags.table("sglang")["flags"]["--disaggregation-transfer-backend"]["choices"])


def vllm(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """vLLM's complaints."""
    yield from arguments(spec)
    yield from _even_nodes(spec, plan)
    spans = any(len(one.nodes) > 1 for one in plan.instances)
    if spans and spec.engine.rendezvous == "builtin" and older(spec.engine.version, NATIVE_NODES):
        text = f"found {spec.engine.version}, but instances that span nodes without Ray need {NATIVE_NODES}; set engine.rendezvous: ray"
        yield _say(spec, ("engine", "version"), text)
    if spec.engine.rendezvous == "ray":
        yield from _one_ray_on_a_node(spec, plan)
    for role, key in SECTION.items():
        given = spec.section(role).engine_keys.get("kv_transfer_config")
        name = given.get("kv_connector") if isinstance(given, dict) else None
        newest = flags.table("vllm")["version"]
        if name == "P2pNcclConnector" and spec.engine.version is not None and not older(spec.engine.version, newest):
            text = f"found {name}, which vLLM {newest} and later do not have; NixlConnector and MooncakeConnector take its place"
            yield _say(spec, (key, "kv_transfer_config", "kv_connector"), text)
        if name is not None and name not in CONNECTORS:
            text = f"{name!r} is not known here; it is passed on{did_you_mean(name, CONNECTORS)}"
            yield _say(spec, (key, "kv_transfer_config", "kv_connector"), text, WARNING)
    names = {connector(spec, role) for role in SECTION}
    if len(names) > 1 and all(spec.section(role).num_instances for role in SECTION):
        text = f"found {' and '.join(sorted(names))}; both roles need the same connector"
        yield _say(spec, ("generation_servers", "kv_transfer_config"), text)
    yield from _front_door(spec, names)
    yield from _expert_keys(spec, "enable_expert_parallel")


def sglang(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """SGLang's complaints."""
    yield from arguments(spec)
    yield from _even_nodes(spec, plan)
    found = {}
    for role, key in SECTION.items():
        section = spec.section(role)
        backend = found[role] = section.engine_keys.get("disaggregation_transfer_backend", "nixl")
        if backend not in BACKENDS:
            text = f"found {backend!r}; allowed: {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}"
            yield _say(spec, (key, "disaggregation_transfer_backend"), text)
        if section.context_parallel_size > 1:
            text = f"found {section.context_parallel_size}; SGLang splits the context inside its tensor-parallel group: use attn_cp_size"
            yield _say(spec, (key, "context_parallel_size"), text)
        experts = section.engine_keys.get("ep_size")
        if isinstance(experts, int) and (experts < 1 or section.tensor_parallel_size % experts):
            text = f"found {experts}; it has to divide the tensor_parallel_size of {section.tensor_parallel_size}"
            yield _say(spec, (key, "ep_size"), text)
    if len(set(found.values())) > 1 and all(spec.section(role).num_instances for role in SECTION):
        text = f"found {found[GENERATION]} for generation and {found[CONTEXT]} for context; both roles need the same one"
        yield _say(spec, ("generation_servers", "disaggregation_transfer_backend"), text)


def arguments(spec: Spec) -> Iterator[Complaint]:
    """Flags in engine.args that the engine is not known to have."""
    for i, name, meant in flags.unknown(spec.engine.name, spec.engine.args):
        text = f"engine {flags.known_as(spec.engine.name)} is not known to have {name}; it is passed on{meant}"
        yield _say(spec, ("engine", "args", i), text, WARNING)


def older(version: Any, needed: str) -> bool:
    """Whether `version` is below `needed`, by its leading numbers; False if it is not given."""
    return version is not None and _numbers(str(version)) < _numbers(needed)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def connector(spec: Spec, role: str) -> str:
    """The KV connector of a role's vLLM workers."""
    given = spec.section(role).engine_keys.get("kv_transfer_config")
    return str(given.get("kv_connector", "NixlConnector")) if isinstance(given, dict) else "NixlConnector"


def _even_nodes(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    for instance in plan.instances:
        counts = Counter(row.node for row in plan.ranks_of(instance.name))
        if len(set(counts.values())) > 1:
            spread = " + ".join(str(n) for n in counts.values())
            text = f"{instance.name} has {spread} ranks on its nodes; {spec.engine.name} divides an instance evenly among its nodes"
            yield _say(spec, (SECTION[instance.role], "tensor_parallel_size"), text)


def _front_door(spec: Spec, names: set[str]) -> Iterator[Complaint]:
    for name in sorted(names & set(OTHER_PROTOCOLS)):
        if spec.router.name == "builtin":
            text = f"found builtin, which hands KV over as NIXL does; {name} needs router: {{name: vllm}}"
            yield _say(spec, ("router", "name"), text)


def _one_ray_on_a_node(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    on: dict[int, str] = {}
    for instance in (one for one in plan.instances if len(one.nodes) > 1):
        for node in instance.nodes:
            if on.setdefault(node, instance.name) != instance.name:
                text = f"found ray, but {on[node]} and {instance.name} share node {node}, and a node has one Ray: use cluster.pins"
                yield _say(spec, ("engine", "rendezvous"), text)
                break


def _expert_keys(spec: Spec, right: str) -> Iterator[Complaint]:
    for role, key in SECTION.items():
        for wrong in ("moe_expert_parallel_size", "ep_size", "expert_parallel_size"):
            if wrong in spec.section(role).engine_keys:
                yield _say(spec, (key, wrong), f"vLLM has no such flag; its experts are spread over TP x DP by {right}: true")


def _say(spec: Spec, path: tuple[str | int, ...], text: str, severity: str = ERROR) -> Complaint:
    return spec.source.complaint(path, text, key=True, severity=severity)
