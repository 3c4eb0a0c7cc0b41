"""aiconfigurator's generator_config.yaml: what it found best, with its own names for parameters."""

from __future__ import annotations

import math
from typing import Any

from disagg_launch.importers.draft import Draft
from disagg_launch.spec.complaint import Path

KIND = "aiconfigurator generator_config.yaml"
SIDES = (("prefill", "context_servers"), ("decode", "generation_servers"))
SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
TRTLLM, VLLM, SGLANG = 0, 1, 2
ENGINES = {"trtllm": TRTLLM, "vllm": VLLM, "sglang": SGLANG}
# its name -> the key of each engine; None: the engine has none
KEYS: dict[str, tuple[Any, Any, Any]] = {
    "max_batch_size": ("max_batch_size", "max_num_seqs", "max_running_requests"),
    "max_num_tokens": ("max_num_tokens", "max_num_batched_tokens", None),
    "max_seq_len": ("max_seq_len", "max_model_len", "context_length"),
    "max_prefill_tokens": (None, None, "max_prefill_tokens"),
    "moe_expert_parallel_size": ("moe_expert_parallel_size", None, "ep_size"),
    "moe_tensor_parallel_size": ("moe_tensor_parallel_size", None, None),
    "enable_expert_parallel": (None, "enable_expert_parallel", None),
    "enable_attention_dp": ("enable_attention_dp", None, "enable_dp_attention"),
    "enable_chunked_prefill": ("enable_chunked_prefill", "enable_chunked_prefill", None),
    "kv_cache_dtype": (("kv_cache_config", "dtype"), "kv_cache_dtype", "kv_cache_dtype"),
    "kv_cache_free_gpu_memory_fraction": (("kv_cache_config", "free_gpu_memory_fraction"), "gpu_memory_utilization", "mem_fraction_static"),
    "kv_cache_max_tokens": (("kv_cache_config", "max_tokens"), None, "max_total_tokens"),
    "tokens_per_block": (("kv_cache_config", "tokens_per_block"), "block_size", "page_size"),
    "cache_transceiver_max_tokens_in_buffer": (("cache_transceiver_config", "max_tokens_in_buffer"), None, None),
    "kv_transfer_backend": (("cache_transceiver_config", "backend"), None, "disaggregation_transfer_backend"),
    "cuda_graph_batch_sizes": (("cuda_graph_config", "batch_sizes"), "cudagraph_capture_sizes", "cuda_graph_bs"),
    "cuda_graph_enable_padding": (("cuda_graph_config", "enable_padding"), None, None),
    "disable_cuda_graph": (None, "enforce_eager", "disable_cuda_graph"),
    "disable_overlap_scheduler": ("disable_overlap_scheduler", None, "disable_overlap_schedule"),
    "disable_prefix_cache": (None, "no_enable_prefix_caching", "disable_radix_cache"),
    "moe_backend": (("moe_config", "backend"), None, "moe_runner_backend"),
    "attention_backend": ("attn_backend", None, "attention_backend"),
    "skip_tokenizer_init": ("skip_tokenizer_init", None, "skip_tokenizer_init"),
    "trust_remote_code": ("trust_remote_code", "trust_remote_code", "trust_remote_code"),
}
REASONS: dict[Path, str] = {
    ("K8sConfig",): "no Kubernetes here",
    ("SlaConfig",): "what was optimised for",
    ("BenchConfig",): "disagg-launch serves and does not measure",
    ("DynConfig",): "the builtin front door takes Dynamo's place",
    ("ModelConfig",): "the checkpoint says it",
}


def matches(values: dict[Any, Any]) -> bool:
    """Whether parsed values are of this kind."""
    return isinstance(values.get("ServiceConfig"), dict) and isinstance(values.get("params", values.get("Workers")), dict)


def convert(draft: Draft) -> None:
    """Fill the draft with our form. BadTopology for an aggregated result."""
    draft.reasons.update(REASONS)
    top = "params" if "params" in draft.source.values else "Workers"
    if not any(draft.peek((top, role)) for role, _ in SIDES):
        draft.refuse((top,), "found neither prefill nor decode; needed: a disaggregated result (disagg/top1/generator_config.yaml)")
    engine, why = _engine(draft)
    draft.move(("ServiceConfig", "model_path"), ("model",))
    if draft.peek(("ServiceConfig", "served_model_path")) == draft.peek(("ServiceConfig", "model_path")):
        draft.take(("ServiceConfig", "served_model_path"))
    draft.move(("ServiceConfig", "head_node_ip"), ("hostname",))
    draft.move(("ServiceConfig", "port"), ("port",))
    draft.put(("engine", "name"), engine, why)
    draft.move(("NodeConfig", "num_gpus_per_node"), ("cluster", "gpus_per_node"))
    if engine == "trtllm":
        draft.put(("cache_transceiver_config", "backend"), "DEFAULT", "needed by TensorRT-LLM")
    for role, section in SIDES:
        _role(draft, top, role, section, ENGINES[engine])
    if engine == "trtllm":
        _share_transceiver(draft)


def _engine(draft: Draft) -> tuple[str, str]:
    """The engine's name and how it was told: the file says it only in the image's name."""
    image = str(draft.peek(("K8sConfig", "k8s_image"), "")) + str(draft.peek(("backend",), ""))
    for word, name in (("vllm", "vllm"), ("sglang", "sglang"), ("trtllm", "trtllm"), ("tensorrtllm", "trtllm")):
        if word in image:
            draft.take(("backend",))
            return name, ""
    return "trtllm", "assumed: the file does not say which engine it is for"


def _role(draft: Draft, top: str, role: str, section: str, column: int) -> None:
    draft.put((section, "num_instances"), draft.take(("WorkerConfig", f"{role}_workers"), 1))
    for size in SIZES:
        draft.move((top, role, size), (section, size))
    sizes = [draft.values[section].get(size, 1) for size in SIZES]
    product = math.prod(size for size in sizes if isinstance(size, int))
    for old in (("WorkerConfig", f"{role}_gpus_per_worker"), (top, role, "gpus_per_worker")):
        if draft.peek(old) == product:
            draft.take(old)
    for name, keys in KEYS.items():
        key = keys[column]
        if key is not None:
            draft.move((top, role, name), (section, *(key if isinstance(key, tuple) else (key,))))
    if column == TRTLLM and draft.values[section].get("data_parallel_size", 1) != 1:
        _attention_replicas(draft, section)


def _attention_replicas(draft: Draft, section: str) -> None:
    """TensorRT-LLM's way of data parallelism: attention replicas inside the tensor parallel ranks."""
    sizes = [draft.values[section].pop("data_parallel_size"), draft.values[section].get("tensor_parallel_size", 1)]
    if all(isinstance(size, int) for size in sizes):
        draft.put((section, "tensor_parallel_size"), math.prod(sizes), "TP x DP, with attention data parallelism")
        draft.put((section, "enable_attention_dp"), True)


def _share_transceiver(draft: Draft) -> None:
    """Put the transfer backend beside what a section says of it: a section may not contradict the top level."""
    if any("cache_transceiver_config" in draft.values[section] for _, section in SIDES):
        shared = draft.values.pop("cache_transceiver_config")
        for _, section in SIDES:
            draft.values[section]["cache_transceiver_config"] = {**shared, **draft.values[section].get("cache_transceiver_config", {})}
