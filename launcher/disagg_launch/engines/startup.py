"""How long a deployment may take until it is ready, reckoned from the topology and the size of its models' weights. Pure.

What is written in `readiness.limit_s` always wins. The figures are limits, not expectations: a start that is really stuck is found
by what it stops saying, long before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from disagg_launch.plan import CONTEXT, GENERATION

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

Weights = Callable[[str], int]
# Imports, graph capture, JIT warm-up: 370 s were seen on B200 (TensorRT-LLM pull/18372), and vLLM gives itself 600 s. SGLang gives the
# warm-up of a prefill or decode server alone 1800 s.
START_S = {"trtllm": 600, "vllm": 600, "sglang": 1800}
# 126 shards of 5 GB took 40 minutes where 10 are usual (vllm-ascend issues/10343)
BYTES_PER_S = 0.25e9
# Python's imports from a file system that all nodes share: 64 nodes took 500 s
NODE_S = 10


@dataclass(frozen=True)
class Limit:
    """`limit_s`, and the sum that it came from."""

    limit_s: float
    why: str


def nothing_at_hand(model: str) -> int:
    """0: nobody looked at the model's files."""
    return 0


def limit(spec: Spec, nodes: int, weights: Weights = nothing_at_hand) -> Limit:
    """readiness.limit_s of a deployment on so many nodes. `weights(model)`: bytes of the model's weights, 0 where they are not at hand."""
    written = "limit_s" in spec.readiness.model_fields_set
    if written or spec.external or spec.engine.name not in START_S:
        return Limit(spec.readiness.limit_s, "readiness.limit_s as written" if written else "the default")
    start_s = START_S[spec.engine.name]
    size, model = heaviest(spec, weights)
    terms = [(start_s, f"{start_s} s for a start of {spec.engine.name}")]
    if size:
        terms.append((math.ceil(size / BYTES_PER_S), f"{size / 1e9:.1f} GB of {model} at {BYTES_PER_S / 1e9:g} GB/s"))
    if nodes > 1:
        terms.append(((nodes - 1) * NODE_S, f"{nodes - 1} more nodes x {NODE_S} s"))
    return Limit(float(sum(seconds for seconds, _ in terms)), " + ".join(words for _, words in terms))


def heaviest(spec: Spec, weights: Weights) -> tuple[int, str]:
    """(bytes, model) of the larger of both roles' models: instances load side by side."""
    sections = (spec.section(role) for role in (CONTEXT, GENERATION))
    models = {section.model or spec.model or "" for section in sections if section.num_instances}
    return max(((weights(model), model) for model in sorted(models) if model), default=(0, ""))


def timed(spec: Spec, nodes: int, weights: Weights) -> tuple[Spec, Limit]:
    """The spec with its limit filled in as if it had been written, where it is another than the default, and the limit."""
    found = limit(spec, nodes, weights)
    if found.limit_s == spec.readiness.limit_s:
        return spec, found
    readiness = spec.readiness.model_copy(update={"limit_s": found.limit_s})
    return spec.model_copy(update={"readiness": readiness}), found


def is_raised(spec: Spec) -> bool:
    """Whether the limit is more than the default: then an engine's own shorter one would end the start before it."""
    return "limit_s" in spec.readiness.model_fields_set and spec.readiness.limit_s > type(spec.readiness)().limit_s
