"""Which keys each engine takes in a server section. An unknown one only warns: engines grow faster than this table.

An engine's module may offer KNOWN_KEYS; it then counts instead. Sources: the engines' argument lists and worker configuration files.
"""

from __future__ import annotations

import importlib
from typing import Optional

TRTLLM = """
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
    """
VLLM = """
    all2all_backend async_scheduling attention_backend block_size calculate_kv_scales chat_template compilation_config
    compilation_mode config_format cpu_offload_gb data_parallel_backend data_parallel_hybrid_lb data_parallel_rpc_port
    data_parallel_size data_parallel_size_local dbo_decode_token_threshold decode_context_parallel_size disable_custom_all_reduce
    disable_log_requests disable_log_stats distributed_executor_backend download_dir dtype enable_auto_tool_choice
    enable_chunked_prefill enable_dbo enable_eplb enable_expert_parallel enable_lora enable_prefix_caching enable_sleep_mode
    enforce_eager eplb_config gpu_memory_utilization hf_overrides hf_token kv_cache_dtype kv_cache_memory_bytes kv_transfer_config
    limit_mm_per_prompt load_format long_prefill_token_threshold max_cudagraph_capture_size max_log_len max_logprobs
    max_long_partial_prefills max_lora_rank max_loras max_model_len max_num_batched_tokens max_num_partial_prefills max_num_seqs
    max_parallel_loading_workers mm_processor_kwargs no_async_scheduling no_disable_hybrid_kv_cache_manager
    no_enable_flashinfer_autotune no_enable_prefix_caching num_gpu_blocks_override numa_bind offload_group_size
    offload_num_in_group offload_prefetch_step override_attention_dtype override_generation_config quantization reasoning_parser
    revision rope_scaling rope_theta scheduling_policy seed served_model_name speculative_config stream_interval swap_space
    tokenizer tokenizer_mode tokenizer_revision tool_call_parser trust_remote_code uvicorn_log_level
    """
SGLANG = """
    allow_auto_truncate api_key attention_backend chat_template chunked_prefill_size context_length cuda_graph_bs
    cuda_graph_max_bs data_parallel_size decode_log_interval deepep_config deepep_mode disable_chunked_prefix_cache
    disable_cuda_graph disable_flashinfer_autotune disable_overlap_schedule disable_piecewise_cuda_graph disable_radix_cache
    disable_shared_experts_fusion disaggregation_bootstrap_port disaggregation_decode_dp disaggregation_decode_polling_interval
    disaggregation_decode_tp disaggregation_ib_device disaggregation_mode disaggregation_prefill_pp
    disaggregation_transfer_backend dist_init_addr dist_timeout download_dir dp_size dtype enable_dp_attention enable_dp_lm_head
    enable_dynamic_chunking enable_eplb enable_flashinfer_allreduce_fusion enable_metrics enable_mixed_chunk enable_multimodal
    enable_single_batch_overlap enable_symm_mem enable_torch_compile ep_dispatch_algorithm ep_num_redundant_experts ep_size
    eplb_algorithm expert_parallel_size fp4_gemm_backend fp8_gemm_backend grammar_backend hicache_ratio hicache_size
    init_expert_location is_embedding json_model_override_args kv_cache_dtype linear_attn_decode_backend load_balance_method
    load_format log_level log_requests mamba_scheduler_strategy mamba_ssm_dtype mamba_track_interval max_mamba_cache_size
    max_prefill_tokens max_queued_requests max_running_requests max_total_tokens mem_fraction_static moe_a2a_backend
    moe_dense_tp_size moe_runner_backend num_reserved_decode_tokens page_size prefill_round_robin_balance quantization random_seed
    reasoning_parser revision sampling_backend schedule_conservativeness schedule_policy scheduler_recv_interval served_model_name
    skip_server_warmup skip_tokenizer_init speculative_algo speculative_algorithm speculative_draft_model_path
    speculative_eagle_topk speculative_moe_a2a_backend speculative_moe_runner_backend speculative_num_draft_tokens
    speculative_num_steps stream_interval swa_full_tokens_ratio tokenizer_mode tokenizer_path tool_call_parser trust_remote_code
    watchdog_timeout weight_loader_prefetch_checkpoints
    """
TABLE = {"trtllm": TRTLLM, "vllm": VLLM, "sglang": SGLANG}


def known_keys(engine: str) -> Optional[frozenset[str]]:
    """The engine's keys; None if it takes any (engine "command")."""
    try:
        module = importlib.import_module(f"disagg_launch.engines.{engine}")
    except ImportError:
        module = None
    offered = getattr(module, "KNOWN_KEYS", None) or TABLE.get(engine, "").split()
    return frozenset(offered) or None
