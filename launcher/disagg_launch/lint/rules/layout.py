"""DL00x: ranks, nodes, ports and what depends on there being more than one node."""

from __future__ import annotations

import re
from collections.abc import Iterator

from disagg_launch.engines.servers import inside_port
from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, rule
from disagg_launch.place.planner import EPHEMERAL
from disagg_launch.spec.checks import UNFILLED, unfilled
from disagg_launch.spec.complaint import Path

LOOPBACK = re.compile(r"^(localhost|127\.[0-9.]+|::1|\[::1\])$")
TASKS = re.compile(r"^(?:-n|-np|--ntasks|--np)(?:[= ]?)(\d+)?$")


@rule(
    "DL001",
    ERROR,
    "World size is not the sum of TP x PP x CP over all instances",
    why="Ranks wait for ranks that never come, or two worlds of the wrong size start.",
    fix="Leave task counts out: they are taken from the plan.",
    source="TensorRT-LLM's disaggregated_mpi_worker asserts it; its scripts asked for TP 8 on 4 tasks (pull/6766, pull/8602)",
)
def world_size(case: Case) -> Iterator[Finding]:
    total = sum(section.num_instances * section.size for _, section in case.sides())
    if case.plan and not case.spec.external and len(case.plan.ranks) != total:
        yield (), f"the plan has {len(case.plan.ranks)} ranks; needed: {total}"
    given: list[tuple[Path, tuple[str, ...]]] = [
        (("mpi", "args"), case.spec.mpi.args),
        (("slurm", "extra_args"), case.spec.slurm.extra_args),
    ]
    for path, args in given:
        for i, word in enumerate(args):
            match = TASKS.match(word)
            count = match and (match[1] or (args[i + 1] if i + 1 < len(args) else ""))
            if count and count.isdigit() and int(count) != total:
                yield (*path, i), f"found {count} tasks; the instances have {total} ranks"


@rule(
    "DL002",
    ERROR,
    "A port is used twice on a node",
    why="The second to bind it ends at once.",
    fix="Move `cluster.base_port` or `port`.",
    source="Port conflicts are the most frequent fix in TensorRT-LLM's scripts (pull/9474, 9582, 9646, 10035, 12618, 15558)",
)
def ports_unique(case: Case) -> Iterator[Finding]:
    spec = case.spec
    for key, section in case.sides() if spec.external else ():
        for i, url in enumerate(section.urls):
            if url == f"{spec.hostname}:{spec.port}":
                yield (key, "urls", i), f"found {url}, which is the front door's own address"
    if case.plan is None:
        return
    node = int(case.plan.router.get("node", 0))
    taken = {(node, spec.port): "the front door", (node, inside_port(spec) or spec.port): "the front door"}
    for instance in case.plan.instances:
        place = (instance.nodes[0], instance.port)
        if place in taken:
            yield ("cluster", "base_port"), f"port {instance.port} on node {place[0]} is for {taken[place]} and for {instance.name}"
        taken[place] = instance.name


@rule(
    "DL003",
    WARNING,
    "A port lies in the range from which the system gives ports to clients",
    why="Any outgoing connection may hold it when the server wants to bind.",
    fix=f"Use ports below {EPHEMERAL.start}.",
    source="Linux, net.ipv4.ip_local_port_range: 32768 to 60999 by default",
)
def ports_not_ephemeral(case: Case) -> Iterator[Finding]:
    if case.spec.port in EPHEMERAL:
        yield ("port",), f"found {case.spec.port}; wanted: below {EPHEMERAL.start}"
    if case.spec.external:
        return
    ports = [i.port for i in case.plan.instances] if case.plan else [case.spec.cluster.base_port]
    if any(port in EPHEMERAL for port in ports):
        yield ("cluster", "base_port"), f"instances get ports {min(ports)} to {max(ports)}; wanted: below {EPHEMERAL.start}"


@rule(
    "DL004",
    WARNING,
    "The front door listens on the loopback address while there are several nodes",
    why="Nobody on another machine reaches it.",
    fix="Set `hostname` to the address clients use, or keep it and connect on the front door's node only.",
    source="TensorRT-LLM's service discovery example binds localhost while workers use the node's name",
)
def hostname_reachable(case: Case) -> Iterator[Finding]:
    given = case.spec.model_fields_set
    # on Slurm a hostname that is not given becomes every address of the first node
    if case.spec.external or ("slurm" in given and "hostname" not in given):
        return
    if LOOPBACK.match(case.spec.hostname) and case.node_count() > 1:
        yield ("hostname",), f"found {case.spec.hostname} with {case.node_count()} nodes"


@rule(
    "DL005",
    WARNING,
    "A model path is relative while there are several nodes",
    why="Each node reads it from its own working directory.",
    fix="Write the absolute path, on a file system that all nodes share.",
    source="General",
)
def model_path_absolute(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        model = section.model or ""
        looks_like_path = model.startswith((".", "~")) or model.count("/") > 1 or model.endswith(".gguf")
        if looks_like_path and not model.startswith("/") and "://" not in model and case.node_count() > 1:
            yield (key, "model"), f"found {model!r} with {case.node_count()} nodes; wanted: an absolute path"


@rule(
    "DL006",
    WARNING,
    "The environment sets CUDA_VISIBLE_DEVICES",
    why="Each rank's GPUs come from the plan; a fixed value would give them all the same.",
    fix="Leave it out; use `cluster.pins` or `cluster.exclude` to choose GPUs.",
    source="TensorRT-LLM pull/12370: workers that saw all GPUs ran out of memory",
)
def gpus_from_the_plan(case: Case) -> Iterator[Finding]:
    if "CUDA_VISIBLE_DEVICES" in case.spec.env:
        yield ("env", "CUDA_VISIBLE_DEVICES"), "the plan gives each rank its GPUs"
        return
    for key, section in case.sides():
        if "CUDA_VISIBLE_DEVICES" in section.env:
            yield (key, "env", "CUDA_VISIBLE_DEVICES"), "the plan gives each rank its GPUs"


@rule(
    UNFILLED,
    ERROR,
    "A place holder was not filled in",
    why="It is taken literally: `<partition>` is no partition.",
    fix="Write your own value.",
    source="The samples of TensorRT-LLM's scripts and documentation",
)
def placeholder(case: Case) -> Iterator[Finding]:
    yield from unfilled(case.spec.source.values)
