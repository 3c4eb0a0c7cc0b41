"""DL03x: what the model's own files say, when they are at hand (config.json, hf_quant_config.json)."""

from __future__ import annotations

from collections.abc import Iterator

from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, inner, rule
from disagg_launch.lint.rules.kv import kv_dtype
from disagg_launch.spec import Section


def number(case: Case, section: Section, key: str) -> int:
    """A number of the model's config.json, also from the text part of a multimodal one; 0 if it is not known."""
    config = case.document(section.model or "", "config.json")
    value = config.get(key) or (config.get("text_config") or {}).get(key)
    return value if isinstance(value, int) else 0


def splits_heads(case: Case, section: Section) -> bool:
    """Whether attention heads are cut over TP ranks: not with attention data parallelism, and the embedded engine cuts unevenly."""
    return case.spec.engine.name != "reference" and not inner(section, "enable_attention_dp") and not inner(section, "enable_dp_attention")


@rule(
    "DL030",
    ERROR,
    "Tensor parallelism does not divide the attention heads",
    why="The engine refuses to load the model.",
    fix="Choose a `tensor_parallel_size` that divides num_attention_heads.",
    source="TensorRT-LLM, vLLM and SGLang check it when they load",
)
def heads(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        count, tp = number(case, section, "num_attention_heads"), section.tensor_parallel_size
        if splits_heads(case, section) and count % tp:
            yield (key, "tensor_parallel_size"), f"found {tp}; the model has {count} attention heads"


@rule(
    "DL031",
    ERROR,
    "Tensor parallelism and KV heads do not divide each other",
    why="KV heads can be split or copied evenly only.",
    fix="Choose a `tensor_parallel_size` that divides num_key_value_heads, or a multiple of it.",
    source="TensorRT-LLM, vLLM and SGLang check it when they load",
)
def kv_heads(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        count, tp = number(case, section, "num_key_value_heads"), section.tensor_parallel_size
        if splits_heads(case, section) and count and count % tp and tp % count:
            yield (key, "tensor_parallel_size"), f"found {tp}; the model has {count} KV heads"


@rule(
    "DL032",
    WARNING,
    "Pipeline parallelism does not divide the layers",
    why="The longest stage sets the pace, and some engines refuse.",
    fix="Choose a `pipeline_parallel_size` that divides num_hidden_layers.",
    source="General",
)
def layers(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        count, pp = number(case, section, "num_hidden_layers"), section.pipeline_parallel_size
        if count % pp:
            yield (key, "pipeline_parallel_size"), f"found {pp}; the model has {count} layers"


@rule(
    "DL033",
    ERROR,
    "The checkpoints of context and generation have different KV-cache quantisation",
    why="A mixed-precision pair works only if both keep their KV cache in the same type.",
    fix="Quantise with `--kv_cache_qformat none`, or set the same KV dtype on both sides.",
    source="TensorRT-LLM's disaggregated serving documentation, mixed precision: compare hf_quant_config.json",
)
def checkpoints_agree(case: Case) -> Iterator[Finding]:
    pair = case.pair()
    if pair is None or pair[0].model == pair[1].model or "auto" not in (kv_dtype(pair[0]), kv_dtype(pair[1])):
        return
    algorithms = []
    for section in pair:
        if not case.document(section.model or "", "config.json"):
            return
        quantization = case.document(section.model or "", "hf_quant_config.json").get("quantization")
        algorithms.append((quantization if isinstance(quantization, dict) else {}).get("kv_cache_quant_algo") or "none")
    if algorithms[0] != algorithms[1]:
        yield (
            ("generation_servers", "model"),
            f"found KV quantisation {algorithms[1]}, but {algorithms[0]} in the context side's checkpoint",
        )
