"""DL02x: service discovery, the metadata server and autoscaling."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from disagg_launch.errors import DoesNotFit
from disagg_launch.lint.rule import ERROR, SECTION, WARNING, Case, Finding, rule
from disagg_launch.lint.rules.layout import LOOPBACK
from disagg_launch.spec.maps import Scaled

MISMATCH = "The documentation and the code of TensorRT-LLM disagree"


@rule(
    "DL020",
    ERROR,
    "Heartbeats are not more frequent than the time-out",
    why="Live servers are taken for dead, or send no heartbeats at all.",
    fix="Set 0 < `heartbeat_interval_sec` < `inactive_timeout_sec`; a third of it is usual.",
    source="TensorRT-LLM: heartbeats run only if 0 < interval < time-out",
)
def heartbeat(case: Case) -> Iterator[Finding]:
    cluster = case.spec.disagg_cluster
    if cluster and not 0 < cluster.heartbeat_interval_sec < cluster.inactive_timeout_sec:
        found = f"found {cluster.heartbeat_interval_sec} s with a time-out of {cluster.inactive_timeout_sec} s"
        yield ("disagg_cluster", "heartbeat_interval_sec"), f"{found}; needed: more than 0 and less than the time-out"


@rule(
    "DL021",
    ERROR,
    "More instances are needed for readiness than are planned",
    why="The front door never becomes ready.",
    fix="Lower `minimal_instances` or raise `num_instances`.",
    source="TensorRT-LLM rejects requests below minimal_instances",
)
def minimal_instances(case: Case) -> Iterator[Finding]:
    cluster = case.spec.disagg_cluster
    # whoever only joins another run's front door needs not be enough for it
    if cluster is None or case.spec.external or case.spec.router.name == "none":
        return
    for role, section in (("context", case.spec.context_servers), ("generation", case.spec.generation_servers)):
        wanted = getattr(cluster.minimal_instances, f"{role}_servers")
        if wanted > section.num_instances:
            yield ("disagg_cluster", "minimal_instances", f"{role}_servers"), f"found {wanted}; planned: {section.num_instances}"


@rule(
    "DL022",
    WARNING,
    "inactive_interval_sec is spelt as in the documentation, not as in the code",
    why="disagg-launch takes both, TensorRT-LLM raises KeyError.",
    fix="Write `inactive_timeout_sec`.",
    source=MISMATCH,
)
def inactive_spelling(case: Case) -> Iterator[Finding]:
    if "inactive_interval_sec" in (case.spec.source.value("disagg_cluster") or {}):
        yield ("disagg_cluster", "inactive_interval_sec"), "found the documentation's spelling; the code's is inactive_timeout_sec"


@rule(
    "DL023",
    WARNING,
    "The metadata server's map lacks server_type",
    why="disagg-launch takes it for etcd, TensorRT-LLM has no default and fails.",
    fix="Add `server_type: etcd`.",
    source=MISMATCH,
)
def metadata_type(case: Case) -> Iterator[Finding]:
    if case.spec.metadata_server and "server_type" not in case.spec.source.value("metadata_server", default={}):
        yield ("metadata_server",), "found no server_type; needed by TensorRT-LLM: etcd"


@rule(
    "DL024",
    WARNING,
    "refresh_interval is spelt refersh_interval",
    why="disagg-launch takes both, TensorRT-LLM raises TypeError.",
    fix="Write `refresh_interval`.",
    source=MISMATCH,
)
def refresh_spelling(case: Case) -> Iterator[Finding]:
    if "refersh_interval" in (case.spec.source.value("metadata_server") or {}):
        yield ("metadata_server", "refersh_interval"), "found the sample's spelling; the code's is refresh_interval"


@rule(
    "DL025",
    ERROR,
    "Servers on several nodes register at a loopback address",
    why="Each asks its own node, where nobody keeps the list.",
    fix="Put the name of the front door's (or etcd's) node into `cluster_uri`.",
    source="TensorRT-LLM's service discovery example",
)
def cluster_uri_reachable(case: Case) -> Iterator[Finding]:
    cluster = case.spec.disagg_cluster
    if cluster and not case.spec.external and case.node_count() > 1:
        hosts = [urlsplit(uri.strip()).hostname or "" for uri in cluster.cluster_uri.split(",")]
        if any(LOOPBACK.match(host) for host in hosts):
            yield ("disagg_cluster", "cluster_uri"), f"found {cluster.cluster_uri} with {case.node_count()} nodes"


@rule(
    "DL026",
    ERROR,
    "Conditional disaggregation without a KV-cache aware generation router",
    why="Only that router knows how much of a prompt is cached; each request fails.",
    fix="Set `generation_servers: {router: {type: kv_cache_aware}}` or drop `conditional_disagg_config`.",
    source="TensorRT-LLM asserts it at request time",
)
def conditional_router(case: Case) -> Iterator[Finding]:
    kind = case.spec.generation_servers.router.get("type", "round_robin")
    if case.spec.conditional_disagg_config and kind != "kv_cache_aware":
        yield ("conditional_disagg_config",), f"found the generation router {kind}; needed: kv_cache_aware"


def scaled(case: Case) -> list[tuple[str, Scaled]]:
    """(section key, limits) of the roles that are scaled."""
    found = ((key, getattr(case.spec.autoscale, key, None)) for key in SECTION.values())
    return [(key, one) for key, one in found if one]


@rule(
    "DL027",
    ERROR,
    "autoscale contradicts num_instances or minimal_instances",
    why="It would change the deployment as soon as it is up, or below what the front door needs to be ready.",
    fix="Let `num_instances` lie between `min` and `max`, and `min` be no less than `minimal_instances`.",
    source="disagg-launch: a role is kept between min and max at once, whatever its load",
)
def autoscale_limits(case: Case) -> Iterator[Finding]:
    cluster = case.spec.disagg_cluster
    for key, one in scaled(case):
        count = getattr(case.spec, key).num_instances
        if not one.min <= count <= one.max:
            yield ("autoscale", key), f"found {one.min} to {one.max}; planned: {count}"
        needed = getattr(cluster.minimal_instances, key) if cluster else 0
        if one.min < needed:
            yield ("autoscale", key, "min"), f"found {one.min}; needed by disagg_cluster.minimal_instances: {needed}"


@rule(
    "DL028",
    WARNING,
    "autoscale may wish for more instances than there is room for",
    why="Such a wish is refused and said, and the roles stay as they are.",
    fix="Lower `max`, or give the cluster more nodes or GPUs.",
    source="the placement of the topology with both roles at their max",
)
def autoscale_room(case: Case) -> Iterator[Finding]:
    from disagg_launch import place

    most = {key: getattr(case.spec, key).model_copy(update={"num_instances": one.max}) for key, one in scaled(case)}
    if not most or case.spec.external:
        return
    try:
        place.place(case.spec.model_copy(update=most))
    except DoesNotFit as wrong:
        wish = " and ".join(f"{one.max} {key}" for key, one in scaled(case))
        yield ("autoscale",), f"found up to {wish}: {str(wrong).partition(chr(10))[0]}"


@rule(
    "DL029",
    ERROR,
    "autoscale has nothing to go by, or no way to change the deployment",
    why="Only the built-in router tells how long requests wait, each of its processes for itself; only steps of one instance can be added.",
    fix="Use `router: {name: builtin}` with one process, and `slurm: {mode: step-per-instance}`.",
    source="disagg-launch: the gateway reads /admin/load",
)
def autoscale_possible(case: Case) -> Iterator[Finding]:
    if not scaled(case):
        return
    router, slurm = case.spec.router, case.spec.slurm
    if router.name != "builtin":
        yield ("router", "name"), f"found {router.name}; needed with autoscale: builtin"
    if router.options.get("processes", 1) != 1:
        yield ("router", "options", "processes"), f"found {router.options['processes']}; needed with autoscale: 1"
    if "slurm" in case.spec.model_fields_set and slurm.mode != "step-per-instance":
        yield ("slurm", "mode"), f"found {slurm.mode}; needed with autoscale: step-per-instance"
    for key, one in scaled(case):
        if one.queue_s and not one.ttft_s and not router.options.get("max_in_flight_per_worker"):
            yield ("autoscale", key, "queue_s"), "found no other target; without router.options.max_in_flight_per_worker nobody waits there"
