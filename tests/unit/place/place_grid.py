"""The grid of 4,608 topologies, which the figures of other launchers are known for.

1-6 context and 1-6 generation instances; ranks per instance of either role out of 1, 2, 3, 4, 6, 8, 12, 16, all of them one
tensor-parallel group; nodes of 4 and of 8 GPUs: 6 x 6 x 8 x 8 x 2.
"""

from __future__ import annotations

from itertools import product

from disagg_launch.place import Cluster, Demand, layout

SIZES, GPUS, INSTANCES = (1, 2, 3, 4, 6, 8, 12, 16), (4, 8), range(1, 7)


def topologies():
    """(demands, GPUs per node) of every topology."""
    for gpus, contexts, generations, ctx, gen in product(GPUS, INSTANCES, INSTANCES, SIZES, SIZES):
        demands = [Demand(f"ctx{i}", "context", ctx) for i in range(contexts)]
        yield demands + [Demand(f"gen{i}", "generation", gen) for i in range(generations)], gpus


def figures(policy="pack"):
    """What is wrong with the layouts of the grid, summed up, and the nodes they take."""
    out = dict.fromkeys(("nodes", "needless splits", "unused nodes", "round-ups", "overlaps"), 0)
    for demands, gpus in topologies():
        made = layout(demands, Cluster(gpus, policy=policy))
        nodes = [{seat.node for seat in seats} for seats in made.seats]
        seats = [seat for row in made.seats for seat in row]
        out["nodes"] += made.node_count
        out["needless splits"] += any(len(mine) > -(-demand.size // gpus) for demand, mine in zip(demands, nodes))
        out["unused nodes"] += set().union(*nodes) != set(range(made.node_count))
        out["round-ups"] += any(len(row) != demand.size for demand, row in zip(demands, made.seats))
        out["overlaps"] += len(set(seats)) != len(seats) or any(seat.gpu >= gpus for seat in seats)
    return out
