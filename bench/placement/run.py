"""Placement, measured: the grid of 4,608 topologies, and the CPU time for 10^2 to 10^5 ranks with plan.json written.

    python bench/placement/run.py [--trtllm submit.py] [--srtctl srt-slurm/src]

The grid: 1-6 context and 1-6 generation instances; 1, 2, 3, 4, 6, 8, 12 or 16 ranks in an instance of either role, one tensor-parallel
group; nodes of 4 and 8 GPUs. Peers run through the same topologies in the same process, if their sources are given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import peers

from disagg_launch.place import POLICIES, Cluster, Demand, layout
from disagg_launch.place.planner import assemble
from disagg_launch.plan import to_json

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "unit" / "place"))
from place_grid import GPUS, INSTANCES, SIZES

FAULTS = ("needless splits", "unused nodes", "round-ups", "overlaps")
RANKS = (100, 1_000, 10_000, 100_000)
BEST_OF = 3


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trtllm", type=Path, help="TensorRT-LLM's examples/disaggregated/slurm/benchmark/submit.py")
    parser.add_argument("--srtctl", type=Path, help="the folder src of srt-slurm")
    given = parser.parse_args()
    allocators = {f"disagg-launch, {policy}": peers.ours(policy) for policy in POLICIES if policy != "align_domain"}
    if given.trtllm:
        allocators["TensorRT-LLM submit.py"] = peers.trtllm(given.trtllm)
    if given.srtctl:
        allocators["srtctl"] = peers.srtctl(given.srtctl, colocate=False)
        allocators["srtctl, roles share nodes"] = peers.srtctl(given.srtctl, colocate=True)
    grid(allocators)
    print()
    curve({name: one for name, one in allocators.items() if name in ("disagg-launch, pack", "TensorRT-LLM submit.py", "srtctl")})


def grid(allocators: dict[str, peers.Allocator]) -> None:
    """One line for each allocator: nodes in all, and in how many of the topologies it does what it should not."""
    print(f"{'4,608 topologies':<32}{'nodes':>8}" + "".join(f"{fault:>17}" for fault in FAULTS) + f"{'ms each':>9}")
    for name, allocate in allocators.items():
        nodes, faults, start = 0, dict.fromkeys(FAULTS, 0), time.process_time()
        made = [((c, g), gpus, allocate(c, g, gpus)) for c, g, gpus in topologies()]
        each = (time.process_time() - start) / len(made) * 1e3
        for (context, generation), gpus, (reserved, instances) in made:
            nodes += reserved
            seats = [seat for one in instances for seat in one]
            wanted = sorted([context[1]] * context[0] + [generation[1]] * generation[0])
            faults["needless splits"] += any(len({node for node, _ in one}) > -(-len(one) // gpus) for one in instances)
            faults["unused nodes"] += reserved > len({node for node, _ in seats})
            faults["round-ups"] += sorted(map(len, instances)) != wanted
            faults["overlaps"] += len(set(seats)) < len(seats)
        print(f"{name:<32}{nodes:>8}" + "".join(f"{faults[fault]:>17}" for fault in FAULTS) + f"{each:>9.3f}")


def topologies():
    """((context instances, ranks), (generation instances, ranks), GPUs per node)."""
    for gpus, contexts, generations, ctx, gen in product(GPUS, INSTANCES, INSTANCES, SIZES, SIZES):
        yield (contexts, ctx), (generations, gen), gpus


def curve(allocators: dict[str, peers.Allocator]) -> None:
    """CPU seconds for plans of 10^2..10^5 ranks on nodes of 8 GPUs: placement alone for all, and the whole plan, written, for us."""
    print(f"{'ranks':>8}{'ours: plan.json written':>26}{'us a rank':>11}" + "".join(f"{name + ' alone':>36}" for name in allocators))
    for ranks in RANKS:
        context, generation = (ranks // 8, 4), (ranks // 32, 16)
        whole = best(lambda context=context, generation=generation: written(context, generation))
        alone = [best(lambda one=one, c=context, g=generation: one(c, g, 8)) for one in allocators.values()]
        print(f"{ranks:>8}{whole:>24.3f} s{whole / ranks * 1e6:>11.1f}" + "".join(f"{seconds:>34.4f} s" for seconds in alone))


def written(context: tuple[int, int], generation: tuple[int, int]) -> None:
    """Lay the instances, assemble the plan, and write plan.json."""
    demands = [Demand(f"ctx{i}", "context", context[1]) for i in range(context[0])]
    demands += [Demand(f"gen{i}", "generation", 8, generation[1] // 8) for i in range(generation[0])]
    plan = assemble("bench", demands, layout(demands, Cluster(8)), 8001, {"hostname": "localhost", "port": 8000, "node": 0})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan.json").write_text(to_json(plan))


def best(work) -> float:
    """The least of a few runs, in CPU seconds: other work on the machine disturbs those least."""
    seconds = []
    for _ in range(BEST_OF):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
