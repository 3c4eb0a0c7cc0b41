"""Service discovery in a run folder: the map that router and workers share, and who registers a worker that cannot do it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disagg_launch.engines.servers import inside_address
from disagg_launch.launch import Ref, Text
from disagg_launch.plan import Instance

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

# cluster_uri: auto is the front door's own storage, wherever it comes to stand
AUTO = "auto"
METADATA_CONFIG = "configs/metadata_config.yaml"


def cluster(spec: Spec) -> dict[str, Any]:
    """The disagg_cluster map that router and workers share, late-bound; {} without service discovery."""
    if spec.disagg_cluster is None:
        return {}
    given = spec.disagg_cluster.model_dump(mode="json", exclude_unset=True)
    return {**given, "cluster_uri": _uri(spec)}


def served(spec: Spec) -> bool:
    """Whether the front door itself keeps the workers' entries."""
    return spec.disagg_cluster is not None and not spec.disagg_cluster.cluster_uri.startswith("etcd://")


def metadata_config(spec: Spec) -> dict[str, Any]:
    """metadata_config.yaml, with the key `server_type` that upstream's program needs; {} without a metadata server."""
    return spec.metadata_server.model_dump(mode="json") if spec.metadata_server else {}


def accompanied(spec: Spec, instance: Instance, argv: tuple[Text, ...], health: str, python: str) -> tuple[Text, ...]:
    """`argv` begun by a companion that registers the worker; `argv` itself without service discovery."""
    known = spec.disagg_cluster
    if known is None:
        return argv
    words: list[Text] = [python, (Ref("run"), "/runtime.pyz"), "register", "--disagg_cluster_uri", _uri(spec)]
    words += ["--cluster_name", known.cluster_name] if known.cluster_name else []
    words += ["--server_role", instance.role.upper(), "--host", (Ref("host"),), "--port", (Ref("port"),), "--health", health]
    words += ["--heartbeat_interval_sec", str(known.heartbeat_interval_sec), "--inactive_timeout_sec", str(known.inactive_timeout_sec)]
    return (*words, "--", *argv)


def _uri(spec: Spec) -> Text:
    assert spec.disagg_cluster is not None
    uri = spec.disagg_cluster.cluster_uri
    return ("http://", *inside_address(spec)) if uri == AUTO else uri
