"""DL02x: service discovery and the metadata server."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, rule
from disagg_launch.lint.rules.layout import LOOPBACK

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
    if cluster is None or case.spec.external:
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
