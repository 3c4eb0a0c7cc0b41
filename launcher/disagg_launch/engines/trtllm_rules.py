"""What TensorRT-LLM refuses or wants to be told about, found before anything starts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from disagg_launch.engines.process_rules import arguments, older
from disagg_launch.engines.trtllm_files import AUTO, OVERLAP
from disagg_launch.plan import CONTEXT, SECTION, Plan
from disagg_launch.spec.complaint import ERROR, WARNING, Complaint

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

# service discovery (pull/8215)
CLUSTER = "1.2.0"


def complaints(spec: Spec, plan: Plan, form: str) -> Iterator[Complaint]:
    """Errors and warnings, each at its place in the file."""
    yield from _added(spec)
    yield from arguments(spec)
    yield from _nodes(spec, plan, form)
    if form == "mpi-worker":
        yield from _mpi_worker(spec, plan)
    yield from _discovery(spec)
    yield from _shapes(spec)
    wish = spec.engine.quantize
    if wish and spec.section(wish.role).model in (None, wish.checkpoint):
        text = f"found {wish.checkpoint}, which engine.quantize reads; it writes the quantised checkpoint to this path: give another"
        yield _say(spec, (SECTION[wish.role], "model"), text)


def _added(spec: Spec) -> Iterator[Complaint]:
    keys = spec.context_servers.engine_keys
    if spec.context_servers.num_instances and OVERLAP not in keys:
        text = "left out; set to true for context servers, which refuse requests while the overlap scheduler is on"
        yield _say(spec, ("context_servers", OVERLAP), text, WARNING)


def _nodes(spec: Spec, plan: Plan, form: str) -> Iterator[Complaint]:
    for instance in plan.instances:
        counts = Counter(row.node for row in plan.ranks_of(instance.name))
        if form == "serve" and len(counts) > 1:
            text = f"found serve, but {instance.name} lies on {len(counts)} nodes, and it starts ranks on its own only: use llmapi-launch"
            yield _say(spec, ("engine", "launch"), text)
        if form == "llmapi-launch" and len(set(counts.values())) > 1:
            spread = " + ".join(str(n) for n in counts.values())
            text = f"{instance.name} has {spread} ranks on its nodes; TensorRT-LLM counts GPUs by rank and needs as many on each node"
            yield _say(spec, (SECTION[instance.role], "tensor_parallel_size"), text)


def _mpi_worker(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    text = "mpi-worker is deprecated by TensorRT-LLM, and servers can neither be added nor removed; llmapi-launch takes its place"
    yield _say(spec, ("engine", "launch"), text, WARNING)
    roles = [one.role for one in sorted(plan.instances, key=lambda i: i.first_rank)]
    if roles != sorted(roles, key=lambda role: role != CONTEXT):
        yield _say(spec, ("engine", "launch"), "mpi-worker needs all context ranks before all generation ranks; the plan mixes them")
    for role, key in SECTION.items():
        if spec.section(role).context_parallel_size > 1:
            yield _say(spec, (key, "context_parallel_size"), "found with mpi-worker, which counts TP x PP only; use llmapi-launch")
    if spec.disagg_cluster or spec.engine.metadata_server:
        text = "mpi-worker found together with service discovery, which it cannot do; use serve or llmapi-launch"
        yield _say(spec, ("engine", "launch"), text)


def _discovery(spec: Spec) -> Iterator[Complaint]:
    if spec.disagg_cluster and older(spec.engine.version, CLUSTER):
        text = f"found {spec.engine.version}, but disagg_cluster needs {CLUSTER}; use static urls or metadata_server"
        yield _say(spec, ("engine", "version"), text)
    if spec.disagg_cluster and spec.disagg_cluster.cluster_uri == AUTO and spec.router.name not in ("builtin", "trtllm"):
        text = f"found auto, which is the front door's own storage; the router {spec.router.name} has none"
        yield _say(spec, ("disagg_cluster", "cluster_uri"), text)


def _shapes(spec: Spec) -> Iterator[Complaint]:
    for role, key in SECTION.items():
        section = spec.section(role)
        if section.data_parallel_size > 1:
            text = f"found {section.data_parallel_size}; TensorRT-LLM has no replicas in an instance: use num_instances"
            yield _say(spec, (key, "data_parallel_size"), text)
        experts = section.engine_keys.get("moe_expert_parallel_size")
        if isinstance(experts, int) and (experts < 1 or section.tensor_parallel_size % experts):
            text = f"found {experts}; an instance's {section.tensor_parallel_size} tensor-parallel ranks share its experts: give a divisor"
            yield _say(spec, (key, "moe_expert_parallel_size"), text)


def _say(spec: Spec, path: tuple[str, ...], text: str, severity: str = ERROR) -> Complaint:
    return spec.source.complaint(path, text, key=True, severity=severity)
