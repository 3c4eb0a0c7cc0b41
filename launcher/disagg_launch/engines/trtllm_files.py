"""TensorRT-LLM's files: worker YAML, disagg_config.yaml, metadata_config.yaml. Hosts and urls in them are late-bound. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disagg_launch.discovery.planned import AUTO, METADATA_CONFIG, cluster, metadata_config
from disagg_launch.engines.servers import front_port, servers
from disagg_launch.plan import CONTEXT, SECTION, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

DISAGG_CONFIG = "configs/disagg_config.yaml"
PYTORCH = "pytorch"
OVERLAP, TRANSCEIVER = "disable_overlap_scheduler", "cache_transceiver_config"

# Keys of upstream's files that exist on the command line only.
FLAG_KEYS = {
    "backend", "chat_template", "custom_module_dirs", "fail_fast_on_attention_window_too_large", "free_gpu_memory_fraction",
    "kv_cache_free_gpu_memory_fraction", "log_level", "media_io_kwargs", "tool_parser",
}  # fmt: skip


def worker_args(spec: Spec, role: str) -> dict[str, Any]:
    """The worker YAML of a role: the section's engine keys and what disaggregated serving cannot do without."""
    keys = {k: v for k, v in spec.section(role).engine_keys.items() if k not in FLAG_KEYS}
    if role == CONTEXT and keys.get(OVERLAP) is not True:
        # upstream refuses context-only requests while the overlap scheduler is on
        keys = {OVERLAP: True, **{k: v for k, v in keys.items() if k != OVERLAP}}
    if found := cluster(spec):
        keys["disagg_cluster"] = found
    return keys


def disagg_config(spec: Spec, plan: Plan) -> dict[str, Any]:
    """disagg_config.yaml: servers by url, or found through the cluster, in which case upstream wants the sections without urls."""
    backend = spec.context_servers.engine_keys.get("backend", PYTORCH)
    out: dict[str, Any] = {
        "hostname": spec.hostname,
        "port": front_port(spec.port),
        "backend": backend,
        **spec.router_keys,
        **spec.router.options,
    }
    if found := cluster(spec):
        out["disagg_cluster"] = found
    for role, key in SECTION.items():
        section = spec.section(role)
        own: dict[str, Any] = {}
        if not found:
            urls = servers(spec, plan, role)
            own = {"num_instances": len(urls), "urls": urls}
        if section.router:
            own["router"] = dict(section.router)
        own.update({k: section.engine_keys[k] for k in ("max_batch_size", "max_num_tokens") if k in section.engine_keys})
        if own:
            out[key] = own
    return out


def mpi_config(spec: Spec, plan: Plan) -> dict[str, Any]:
    """disagg_config.yaml of the single MPI world: the sections hold the engines' arguments too, since workers read nothing else."""
    out = disagg_config(spec, plan)
    for role, key in SECTION.items():
        section = spec.section(role)
        shape = {"tensor_parallel_size": section.tensor_parallel_size, "pipeline_parallel_size": section.pipeline_parallel_size}
        engine = {"model": section.model or spec.model, **shape, **worker_args(spec, role)}
        out[key] = {"num_instances": out[key]["num_instances"], **engine, **out[key]}
    if out["context_servers"]["model"] == out["generation_servers"]["model"]:
        models = [out[key].pop("model") for key in SECTION.values()]
        out = {"hostname": out.pop("hostname"), "port": out.pop("port"), "model": models[0], **out}
    return out


__all__ = ["AUTO", "METADATA_CONFIG", "cluster", "disagg_config", "metadata_config", "mpi_config", "worker_args"]
