"""What TensorRT-LLM's files may hold: the worker YAML, the router's disagg_config.yaml, the metadata server's file.

Names, types and rules are those of its public interface (documentation and API stability tables, 1.1 and later); unknown keys are refused
where the real program refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator


class Strict(BaseModel):
    """Refuses unknown keys, as the real argument classes do."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class CacheTransceiver(Strict):
    """cache_transceiver_config."""

    backend: Optional[Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"]] = None
    max_tokens_in_buffer: Optional[int] = None
    kv_transfer_timeout_ms: Optional[PositiveInt] = None
    kv_transfer_sender_future_timeout_ms: Optional[PositiveInt] = None
    transceiver_runtime: Optional[Literal["CPP", "PYTHON"]] = None


class KvCache(Strict):
    """kv_cache_config."""

    enable_block_reuse: bool = True
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    max_tokens: Optional[int] = None
    max_attention_window: Optional[list[int]] = None
    sink_token_length: Optional[int] = None
    free_gpu_memory_fraction: Optional[float] = None
    host_cache_size: Optional[int] = None
    onboard_blocks: bool = True
    cross_kv_cache_fraction: Optional[float] = None
    secondary_offload_min_priority: Optional[int] = None
    event_buffer_max_size: int = 0
    attention_dp_events_gather_period_ms: int = 5
    use_uvm: bool = False
    max_gpu_total_bytes: Optional[int] = None
    dtype: str = "auto"
    mamba_ssm_cache_dtype: str = "auto"
    tokens_per_block: int = 32


class CudaGraph(Strict):
    """cuda_graph_config."""

    batch_sizes: Optional[list[int]] = None
    max_batch_size: int = 0
    enable_padding: bool = False


class Moe(Strict):
    """moe_config."""

    backend: str = "AUTO"
    max_num_tokens: Optional[int] = None
    load_balancer: Optional[Union[str, dict[str, Any]]] = None
    disable_finalize_fusion: bool = False
    use_low_precision_moe_combine: bool = False


class MinimalInstances(BaseModel):
    """disagg_cluster.minimal_instances."""

    model_config = ConfigDict(extra="forbid")
    context_servers: int = 1
    generation_servers: int = 1


class DisaggCluster(Strict):
    """disagg_cluster. The real program raises KeyError for an unknown key, `inactive_interval_sec` included."""

    cluster_uri: str
    cluster_name: str = ""
    minimal_instances: MinimalInstances = MinimalInstances()
    heartbeat_interval_sec: int = 5
    inactive_timeout_sec: int = 10


class WorkerArgs(Strict):
    """The worker YAML of `--config` / `--extra_llm_api_options`."""

    tokenizer: Optional[str] = None
    tokenizer_mode: Literal["auto", "slow"] = "auto"
    custom_tokenizer: Optional[str] = None
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    dtype: str = "auto"
    revision: Optional[str] = None
    tokenizer_revision: Optional[str] = None
    moe_cluster_parallel_size: Optional[int] = None
    moe_tensor_parallel_size: Optional[int] = None
    moe_expert_parallel_size: Optional[int] = None
    enable_attention_dp: bool = False
    enable_lm_head_tp_in_adp: bool = False
    attention_dp_config: Optional[dict[str, Any]] = None
    gpus_per_node: Optional[int] = None
    cp_config: Optional[dict[str, Any]] = None
    load_format: Union[str, int] = "auto"
    enable_lora: bool = False
    lora_config: Optional[dict[str, Any]] = None
    peft_cache_config: Optional[dict[str, Any]] = None
    kv_cache_config: KvCache = KvCache()
    enable_chunked_prefill: bool = False
    guided_decoding_backend: Optional[Literal["xgrammar", "llguidance"]] = None
    batched_logits_processor: Optional[Any] = None
    iter_stats_max_iterations: Optional[int] = None
    request_stats_max_iterations: Optional[int] = None
    scheduler_config: dict[str, Any] = {}
    cache_transceiver_config: Optional[CacheTransceiver] = None
    sparse_attention_config: Optional[dict[str, Any]] = None
    speculative_config: Optional[dict[str, Any]] = None
    max_batch_size: Optional[int] = 2048
    max_input_len: Optional[int] = 1024
    max_seq_len: Optional[int] = None
    max_beam_width: Optional[int] = 1
    max_num_tokens: Optional[int] = 8192
    gather_generation_logits: bool = False
    num_postprocess_workers: int = 0
    postprocess_tokenizer_dir: Optional[str] = None
    reasoning_parser: Optional[str] = None
    otlp_traces_endpoint: Optional[str] = None
    backend: Optional[Literal["pytorch", "tensorrt", "trt", "_autodeploy"]] = None
    return_perf_metrics: bool = False
    perf_metrics_max_requests: int = 0
    orchestrator_type: Optional[Literal["rpc", "ray"]] = None
    garbage_collection_gen0_threshold: int = 20000
    cuda_graph_config: Optional[CudaGraph] = None
    disable_overlap_scheduler: bool = False
    moe_config: Moe = Moe()
    nvfp4_gemm_config: Optional[dict[str, Any]] = None
    attn_backend: str = "TRTLLM"
    sampler_type: str = "auto"
    enable_iter_perf_stats: bool = False
    enable_iter_req_stats: bool = False
    print_iter_log: bool = False
    batch_wait_timeout_ms: float = 0
    batch_wait_timeout_iters: int = 0
    batch_wait_max_tokens_ratio: float = 0
    torch_compile_config: Optional[dict[str, Any]] = None
    enable_autotuner: bool = True
    enable_layerwise_nvtx_marker: bool = False
    enable_min_latency: bool = False
    stream_interval: PositiveInt = 1
    force_dynamic_quantization: bool = False
    allreduce_strategy: Literal[
        "AUTO", "NCCL", "UB", "MINLATENCY", "ONESHOT", "TWOSHOT", "LOWPRECISION", "MNNVL", "NCCL_SYMMETRIC"
    ] = "AUTO"  # fmt: skip
    checkpoint_format: Optional[str] = None
    kv_connector_config: Optional[dict[str, Any]] = None
    mm_encoder_only: bool = False
    ray_worker_extension_cls: Optional[str] = None
    quant_config: Optional[dict[str, Any]] = None
    disagg_cluster: Optional[DisaggCluster] = None


@dataclass
class Metadata:
    """The metadata server's file; an unknown or missing key is a TypeError, as with the real one."""

    server_type: Literal["etcd"]
    hostname: str = "localhost"
    port: int = 2379
    health_check_timeout: float = 5.0
    refresh_interval: float = 10.0


class Servers(BaseModel):
    """One server section of disagg_config.yaml. Anything else belongs to the engine of the MPI worker."""

    model_config = ConfigDict(extra="allow")
    num_instances: int = 1
    urls: Optional[list[str]] = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    router: dict[str, Any] = {}

    @model_validator(mode="after")
    def _counts(self) -> Servers:
        if self.urls is not None:
            if len(self.urls) != self.num_instances:
                raise ValueError(f"num_instances is {self.num_instances}, {len(self.urls)} urls are given")
            for url in self.urls:
                host, port = url.split(":")
                if not host or not port.isdigit():
                    raise ValueError(f"{url!r} is not host:port")
        kind = str(self.router.get("type", "round_robin")).lower()
        if kind not in ("round_robin", "load_balancing", "kv_cache_aware", "conversation"):
            raise ValueError(f"unknown router type {kind!r}")
        return self


OWN_KEYS = {
    "hostname", "port", "max_retries", "perf_metrics_max_requests", "context_servers", "generation_servers", "conditional_disagg_config",
    "disagg_cluster", "otlp_config", "node_id", "schedule_style", "allow_request_chat_template", "server_keep_alive_timeout",
    "gen_strip_message_history", "gen_tokids_ctxbytes", "num_workers", "disagg_coordinator_url",
}  # fmt: skip


class RouterConfig(BaseModel):
    """disagg_config.yaml after the top level's further keys went into both sections."""

    model_config = ConfigDict(extra="forbid")
    hostname: str = "localhost"
    port: int = 8000
    max_retries: int = 1
    perf_metrics_max_requests: int = 0
    context_servers: Servers
    generation_servers: Servers
    conditional_disagg_config: Optional[dict[str, int]] = None
    disagg_cluster: Optional[DisaggCluster] = None
    otlp_config: Optional[dict[str, Optional[str]]] = None
    node_id: Optional[int] = None
    schedule_style: Literal["context_first", "generation_first"] = "context_first"
    allow_request_chat_template: bool = False
    server_keep_alive_timeout: int = 10
    gen_strip_message_history: bool = False
    gen_tokids_ctxbytes: bool = False
    num_workers: int = 1
    disagg_coordinator_url: Optional[str] = None


def read(path: str) -> dict[str, Any]:
    """A YAML file's map; ValueError if it is not one."""
    loaded = yaml.safe_load(Path(path).read_text())
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is not a map")
    return loaded


def router_config(path: str) -> RouterConfig:
    """disagg_config.yaml, checked; the inheritance rule is the upstream one: equal values pass, unlike ones are a ValueError."""
    raw = read(path)
    inherited = {key: raw.pop(key) for key in list(raw) if key not in OWN_KEYS}
    for name in ("context_servers", "generation_servers"):
        section = raw.setdefault(name, {}) or {}
        for key, value in inherited.items():
            if section.setdefault(key, value) != value:
                raise ValueError(f"{key} is set at the top level and differently in {name}")
        raw[name] = section
    return RouterConfig(**raw)


def metadata(path: str) -> Metadata:
    """The metadata server's file; TypeError for an unknown or missing key."""
    found = Metadata(**read(path))
    if found.server_type != "etcd":
        raise ValueError(f"unsupported metadata server type {found.server_type}")
    return found
