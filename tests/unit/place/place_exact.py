"""An exact search to hold the placement against: slow, short, and sharing no code with it."""

from __future__ import annotations

from functools import cache
from itertools import count


def best(instances, gpus):
    """(fewest nodes, then fewest pairs of instance and node) for instances (tp, number of tensor-parallel groups) with tp <= gpus."""
    order = sorted(instances, reverse=True)
    for nodes in count(-(-sum(tp * groups for tp, groups in order) // gpus)):
        found = _fewest_pairs(tuple(order), (gpus,) * nodes)
        if found is not None:
            return nodes, found
    raise AssertionError


def _fewest_pairs(instances, free):
    @cache
    def lay(i, free):
        if i == len(instances):
            return 0
        tp, groups = instances[i]
        options = [used + rest for used, left in deal(tp, groups, free) if (rest := lay(i + 1, tuple(sorted(left)))) is not None]
        return min(options, default=None)

    return lay(0, tuple(sorted(free)))


def deal(tp, groups, free):
    """Every way to deal the groups to the nodes: (nodes used, GPUs then free on each)."""
    if not groups:
        yield 0, free
    elif free:
        for here in range(min(groups, free[0] // tp), -1, -1):
            for used, left in deal(tp, groups - here, free[1:]):
                yield used + (here > 0), (free[0] - here * tp, *left)
