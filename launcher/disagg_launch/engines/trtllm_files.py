"""TensorRT-LLM's files: worker YAML, disagg_config.yaml, metadata_config.yaml. Hosts and urls in them are late-bound. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disagg_launch.discovery.planned import AUTO, METADATA_CONFIG, cluster, metadata_config
from disagg_launch.engines.servers import front_port, servers
from disagg_launch.plan import CONTEXT, GENERATION, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

DISAGG_CONFIG = "configs/disagg_config.yaml"
SECTIONS = {"context_servers": CONTEXT, "generation_servers": GENERATION}
PYTORCH = "pytorch"
OVERLAP, TRANSCEIVER = "disable_overlap_scheduler", "cache_transceiver_config"

# Keys of upstream's files that exist on the command line only.
FLAG_KEYS = {
    "backend", "chat_template", "custom_module_dirs", "fail_fast_on_attention_window_too_large", "free_gpu_memory_fraction",
    "kv_cache_free_gpu_memory_fraction", "log_level", "media_io_kwargs", "tool_parser",
}  # fmt: skip


# Those that are known: a misspelt one is a warning, and engines grow faster than this list. Source: the classes of LLM arguments.
KNOWN_KEYS = frozenset(
    """
    allreduce_strategy attention_dp_config attn_backend auto_deploy_config backend batched_logits_processor build_config
    cache_transceiver_config chat_template checkpoint_format checkpoint_loader context_parallel_size cp_config cuda_graph_config
    custom_module_dirs custom_tokenizer disable_overlap_scheduler disagg_cluster dtype embedding_parallel_mode enable_attention_dp
    enable_autotuner enable_build_cache enable_chunked_context enable_chunked_prefill enable_iter_perf_stats enable_iter_req_stats
    enable_layerwise_nvtx_marker enable_lm_head_tp_in_adp enable_lora enable_min_latency enable_prompt_adapter
    extended_runtime_perf_knob_config fail_fast_on_attention_window_too_large fast_build free_gpu_memory_fraction
    garbage_collection_gen0_threshold gather_generation_logits gpus_per_node guided_decoding_backend iter_stats_max_iterations
    kv_cache_config kv_cache_free_gpu_memory_fraction kv_connector_config load_format log_level lora_config max_batch_size
    max_beam_width max_input_len max_lora_rank max_num_tokens max_prompt_adapter_token max_seq_len media_io_kwargs mm_encoder_only
    moe_cluster_parallel_size moe_config moe_expert_parallel_size moe_tensor_parallel_size normalize_log_probs
    num_postprocess_workers nvfp4_gemm_config orchestrator_type otlp_traces_endpoint peft_cache_config perf_metrics_max_requests
    postprocess_tokenizer_dir print_iter_log quant_config ray_worker_extension_cls reasoning_parser request_stats_max_iterations
    return_perf_metrics revision sampler_type scheduler_config skip_tokenizer_init sparse_attention_config speculative_config
    stream_interval tensorrt_llm_endpoint tokenizer tokenizer_mode tokenizer_revision tool_parser torch_compile_config
    trust_remote_code
    """.split()
)


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
    for key, role in SECTIONS.items():
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
    for key, role in SECTIONS.items():
        section = spec.section(role)
        shape = {"tensor_parallel_size": section.tensor_parallel_size, "pipeline_parallel_size": section.pipeline_parallel_size}
        engine = {"model": section.model or spec.model, **shape, **worker_args(spec, role)}
        out[key] = {"num_instances": out[key]["num_instances"], **engine, **out[key]}
    if out["context_servers"]["model"] == out["generation_servers"]["model"]:
        models = [out[key].pop("model") for key in SECTIONS]
        out = {"hostname": out.pop("hostname"), "port": out.pop("port"), "model": models[0], **out}
    return out


__all__ = ["AUTO", "METADATA_CONFIG", "cluster", "disagg_config", "metadata_config", "mpi_config", "worker_args"]
