"""Other launchers' allocators under one signature, if their sources are at hand: (context, generation) instances -> seats.

Their code is not part of this repository; a path to it is given on the command line.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

# (instances, ranks of one) for context and generation, GPUs per node -> reserved nodes, and for each instance its (node, gpu)s
Seats = list[list[tuple[object, int]]]
Allocator = Callable[[tuple[int, int], tuple[int, int], int], tuple[int, Seats]]


def ours(policy: str) -> Allocator:
    """Our own placement."""
    from disagg_launch.place import Cluster, Demand, layout

    def allocate(context: tuple[int, int], generation: tuple[int, int], gpus: int) -> tuple[int, Seats]:
        sizes = (("context", *context), ("generation", *generation))
        demands = [Demand(f"{role}{i}", role, ranks) for role, count, ranks in sizes for i in range(count)]
        made = layout(demands, Cluster(gpus, policy=policy))
        return made.node_count, [list(row) for row in made.seats]

    return allocate


def trtllm(submit: Path) -> Allocator:
    """TensorRT-LLM's examples/disaggregated/slurm/benchmark/submit.py."""
    module = _load(submit)

    def allocate(context: tuple[int, int], generation: tuple[int, int], gpus: int) -> tuple[int, Seats]:
        nodes = sum(module.calculate_nodes(ranks, count, gpus) for count, ranks in (context, generation))
        made = module.allocate_gpus(nodes, gpus, generation[0], context[0], generation[1], context[1])
        return nodes, [[(node, gpu) for node, slots in one["nodes"].items() for gpu in slots] for one in made]

    return allocate


def srtctl(source: Path, colocate: bool) -> Allocator:
    """srt-slurm's srtctl.core.topology, with or without its switch that lets roles share a node; it imports marshmallow."""
    sys.path.insert(0, str(source))
    from srtctl.core.topology import allocate_endpoints

    def allocate(context: tuple[int, int], generation: tuple[int, int], gpus: int) -> tuple[int, Seats]:
        room = [f"n{i}" for i in range(context[0] * -(-context[1] // gpus) + generation[0] * -(-generation[1] // gpus) + 2)]
        made = allocate_endpoints(
            context[0], generation[0], 0, context[1], generation[1], 0, gpus, room, allow_prefill_decode_colocation=colocate
        )
        seats = [[(node, gpu) for node in one.nodes for gpu in one.gpu_indices] for one in made]
        return len({node for row in seats for node, _ in row}), seats

    return allocate


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader, f"{path}: not a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
