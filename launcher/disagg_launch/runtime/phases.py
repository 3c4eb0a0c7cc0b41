"""What an engine's log says about how far it is, as data: a table of patterns, tried on every line until the instance is healthy.

The engine's name is for readers of the table; any command may run any engine, so every pattern is tried.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Tuple

STARTING, WEIGHTS, COMPILING, TUNING, GRAPHS, CACHE, WARMUP = (
    "starting", "weights", "compiling", "tuning", "graphs", "cache", "warm-up",
)  # fmt: skip
"""Phases of loading, but for STARTING, which comes before."""


class Phase(NamedTuple):
    """One part of a start: its name, how much of it is done (0 to 100, None where that is not known), and what tells it from the last word.

    `step` is "" where the percentage tells.
    """

    name: str
    percent: Optional[int] = None
    step: str = ""


# (engine, phase, pattern). Group `percent` is a percentage; `done` and `of` make one. The first that is found counts.
# Sources: logs and log statements in public issues and code: vllm issues/38820, pull/44106; sglang pull/4848, pull/17985, pull/11716;
# TensorRT-LLM pull/5291, pull/7285, issues/7818, its HfWeightLoader and kvCacheManager. `reference` is ours.
PATTERNS: Tuple[Tuple[str, str, str], ...] = (
    ("vllm, sglang", WEIGHTS, r"Loading (?:safetensors|pt|bin|npcache)[\w ]* shards: +(?P<percent>\d+)%"),
    ("trtllm", WEIGHTS, r"[Ll]oading (?:safetensors |bin )?weights[\w ]*: +(?P<percent>\d+)%"),
    ("vllm", GRAPHS, r"Capturing CUDA graph[^%|]*: +(?P<percent>\d+)%"),
    ("sglang", GRAPHS, r"Capturing batches[^%|]*: +(?P<percent>\d+)%"),
    ("reference", WEIGHTS, r"loading weights: (?P<done>\d+) of (?P<of>\d+) layers"),
    ("vllm", WEIGHTS, r"Starting to load model "),
    ("vllm", COMPILING, r"Dynamo bytecode transform|torch_compile_cache|Compiling a graph for "),
    ("vllm", CACHE, r"GPU KV cache size|# GPU blocks"),
    ("vllm", STARTING, r"Initializing an? (?:V\d )?LLM engine"),
    ("sglang", STARTING, r"Init torch distributed "),
    ("sglang", WEIGHTS, r"Load weight begin|Beginning to load weights"),
    ("sglang", CACHE, r"KV Cache is allocated|Memory pool end"),
    ("sglang", GRAPHS, r"Capture cuda graph begin"),
    ("sglang", WARMUP, r"Start of pd disaggregation warmup"),
    ("trtllm", WEIGHTS, r"Prefetching [\d.]+GB checkpoint files|Finished prefetching \S+|Prefetching \S+ to memory"),
    ("trtllm", TUNING, r"\[Autotuner\]"),
    ("trtllm", GRAPHS, r"Creating CUDA graph instances for|CUDA graph warmup for "),
    ("trtllm", CACHE, r"GiB for max tokens in paged KV cache"),
)
_TABLE = tuple((name, re.compile(pattern)) for _, name, pattern in PATTERNS)
# one search instead of many for the lines, nearly all, that say nothing
_ANY = re.compile(
    r"[Ll]oad|[Cc]aptur|CUDA graph|Dynamo|ompil|KV [Cc]ache|GPU blocks|LLM engine|torch dist|pool end|warmup|refetch|Autotuner"
)
_LONGEST = 2000


def phase_of(text: str) -> Optional[Phase]:
    """The phase that a line of a log speaks of; None for every other line."""
    if not _ANY.search(text, 0, _LONGEST):
        return None
    for name, pattern in _TABLE:
        found = pattern.search(text, 0, _LONGEST)
        if found:
            groups = found.groupdict()
            if "percent" in groups:
                return Phase(name, min(100, int(groups["percent"])))
            if "of" in groups:
                return Phase(name, min(100, 100 * int(groups["done"]) // max(1, int(groups["of"]))))
            # what stands before, a time for example, does not make it another step
            return Phase(name, step=text[found.start() : _LONGEST])
    return None
