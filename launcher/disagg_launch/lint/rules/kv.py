"""DL01x: what context and generation have to agree on so that KV cache can be handed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, inner, rule
from disagg_launch.spec import Section

TRANSCEIVER = "cache_transceiver_config"
DOCS = "TensorRT-LLM's disaggregated serving documentation"
LONG_INPUT, SHORT_TIMEOUT_MS = 65_536, 60_000


def backend(section: Section) -> str:
    """The transceiver's backend in capitals, DEFAULT as what it stands for; "" if none is named."""
    name = str(inner(section, TRANSCEIVER, "backend") or "").upper()
    return "NIXL" if name == "DEFAULT" else name


def kv_dtype(section: Section) -> str:
    """The KV cache's data type by whichever name the engine gives the key; "auto" if none is set."""
    return str(inner(section, "kv_cache_config", "dtype") or inner(section, "kv_cache_dtype") or "auto").lower()


def block_size(section: Section) -> Any:
    """Tokens in a KV block by whichever name the engine gives the key; None if none is set."""
    return inner(section, "kv_cache_config", "tokens_per_block") or inner(section, "block_size") or inner(section, "page_size")


def longest_input(case: Case) -> int:
    """Tokens of the longest prompt that context servers take, as far as the file tells; 0 if it does not."""
    context = case.sides()[0][1] if case.sides() else None
    length = context and (inner(context, "max_input_len") or inner(context, "max_seq_len"))
    return length if isinstance(length, int) else 0


@rule(
    "DL010",
    ERROR,
    "cache_transceiver_config is missing",
    why="A worker without it refuses context-only and generation-only requests.",
    fix="Put `cache_transceiver_config: {backend: DEFAULT}` at the top level.",
    source=DOCS,
)
def transceiver_present(case: Case) -> Iterator[Finding]:
    if case.spec.external or case.pair() is None:
        return
    lacking = [key for key, section in case.sides() if inner(section, TRANSCEIVER) is None]
    if len(lacking) == 1 or (lacking and case.spec.engine.name == "trtllm"):
        for key in lacking:
            yield (key, TRANSCEIVER), f"found nothing in {key}; needed on both sides"


@rule(
    "DL011",
    ERROR,
    "Context and generation use different KV transfer backends",
    why="They cannot talk to each other.",
    fix="Put `cache_transceiver_config` at the top level, once for both.",
    source=DOCS,
)
def transceiver_same(case: Case) -> Iterator[Finding]:
    pair = case.pair()
    if pair and all(backend(s) for s in pair) and backend(pair[0]) != backend(pair[1]):
        path = ("generation_servers", TRANSCEIVER, "backend")
        yield path, f"found {backend(pair[1])}, but {backend(pair[0])} on the context side (DEFAULT is NIXL)"


@rule(
    "DL012",
    ERROR,
    "KV-cache data types differ between context and generation",
    why="The bytes handed over are read as another type: wrong text or a refused transfer.",
    fix="Set the same KV dtype on both sides (`kv_cache_config.dtype`, or `kv_cache_dtype`); weights may differ in precision.",
    source=DOCS + ", mixed precision",
)
def kv_dtype_same(case: Case) -> Iterator[Finding]:
    pair = case.pair()
    if pair and kv_dtype(pair[0]) != kv_dtype(pair[1]):
        key = "kv_cache_dtype" if inner(pair[1], "kv_cache_dtype") else "kv_cache_config"
        yield ("generation_servers", key), f"found {kv_dtype(pair[1])}, but {kv_dtype(pair[0])} on the context side"


@rule(
    "DL013",
    ERROR,
    "KV blocks hold different numbers of tokens on context and generation",
    why="Blocks do not line up, so that they cannot be handed over one for one.",
    fix="Set the same `tokens_per_block` (`block_size`, `page_size`) on both sides.",
    source="TensorRT-LLM's kv_cache_config; the same holds for vLLM's block_size and SGLang's page_size",
)
def block_size_same(case: Case) -> Iterator[Finding]:
    pair = case.pair()
    if pair and block_size(pair[0]) != block_size(pair[1]):
        sizes = [block_size(s) or "the engine's default" for s in pair]
        key = next((k for k in ("kv_cache_config", "block_size", "page_size") if inner(pair[1], k)), "kv_cache_config")
        yield ("generation_servers", key), f"found {sizes[1]}, but {sizes[0]} on the context side"


@rule(
    "DL014",
    WARNING,
    "max_tokens_in_buffer is set on one side only, or differently",
    why="The smaller buffer decides, and the other side's is wasted.",
    fix="Put `cache_transceiver_config` at the top level, once for both.",
    source=DOCS,
)
def buffer_same(case: Case) -> Iterator[Finding]:
    pair = case.pair()
    if pair is None or any(inner(s, TRANSCEIVER) is None for s in pair):
        return
    sizes = [inner(s, TRANSCEIVER, "max_tokens_in_buffer") for s in pair]
    if sizes[0] != sizes[1]:
        shown = [size or "nothing" for size in sizes]
        yield ("generation_servers", TRANSCEIVER, "max_tokens_in_buffer"), f"found {shown[1]}, but {shown[0]} on the context side"


@rule(
    "DL015",
    WARNING,
    "max_tokens_in_buffer is smaller than the longest input",
    why="Transfers of longer prompts are slow, or fail with DEFAULT (NIXL).",
    fix="Raise `cache_transceiver_config.max_tokens_in_buffer` to at least `max_input_len` (or `max_seq_len`) of the context side.",
    source=DOCS + "; ai-dynamo/dynamo pull/5523",
)
def buffer_long_enough(case: Case) -> Iterator[Finding]:
    longest = longest_input(case)
    for key, section in case.sides():
        size = inner(section, TRANSCEIVER, "max_tokens_in_buffer")
        if isinstance(size, int) and size < longest:
            yield (key, TRANSCEIVER, "max_tokens_in_buffer"), f"found {size}; the context side takes inputs of up to {longest} tokens"


@rule(
    "DL016",
    ERROR,
    "The overlap scheduler is on for context servers",
    why="TensorRT-LLM refuses context-only requests then.",
    fix="Leave `disable_overlap_scheduler` out of `context_servers` (it is switched on for you), or set it to true.",
    source=DOCS,
)
def overlap_off(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        if key == "context_servers" and inner(section, "disable_overlap_scheduler") is False:
            yield (key, "disable_overlap_scheduler"), "found false; needed on the context side: true"


@rule(
    "DL017",
    WARNING,
    "The MPI transfer backend lacks its environment variable",
    why="mpi4py and the KV transfer get in each other's way.",
    fix='Add `env: {TRTLLM_USE_MPI_KVCACHE: "1"}`; the engine trtllm adds it by itself when it renders.',
    source=DOCS + ", MPI worker",
)
def mpi_variable(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        if backend(section) == "MPI" and section.env.get("TRTLLM_USE_MPI_KVCACHE") != "1":
            yield (key, TRANSCEIVER, "backend"), "backend MPI wants TRTLLM_USE_MPI_KVCACHE=1 in the environment"


@rule(
    "DL018",
    WARNING,
    "The MPI transfer backend is deprecated",
    why="TensorRT-LLM may drop it.",
    fix="Use DEFAULT, NIXL or UCX.",
    source=DOCS + ", MPI worker",
)
def mpi_deprecated(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        if backend(section) == "MPI":
            yield (key, TRANSCEIVER, "backend"), "backend MPI is deprecated; wanted: DEFAULT, NIXL or UCX"


@rule(
    "DL019",
    WARNING,
    "The KV transfer time-out is short for the longest input",
    why="Requests with long prompts are cancelled while their KV cache is on its way.",
    fix="Raise `cache_transceiver_config.kv_transfer_timeout_ms`.",
    source="TensorRT-LLM pull/13868, pull/15152",
)
def transfer_timeout(case: Case) -> Iterator[Finding]:
    longest = longest_input(case)
    for key, section in case.sides():
        limit = inner(section, TRANSCEIVER, "kv_transfer_timeout_ms")
        if isinstance(limit, int) and limit <= SHORT_TIMEOUT_MS and longest >= LONG_INPUT:
            yield (key, TRANSCEIVER, "kv_transfer_timeout_ms"), f"found {limit} ms with inputs of up to {longest} tokens"
