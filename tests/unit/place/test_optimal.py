"""The placement against the exact search, and on the grid of 4,608 topologies."""

import random

import pytest
from place_exact import best
from place_grid import GPUS, SIZES, figures, topologies

from disagg_launch.place import Cluster, Demand, layout


def test_the_exact_search_knows_what_is_best():
    assert best([(1, 3)] * 4, 4) == (3, 6)
    assert best([(3, 1)] * 2 + [(1, 1)] * 2, 4) == (2, 4)
    assert best([(5, 1)] * 3 + [(3, 2)], 8) == (3, 5)


@pytest.mark.parametrize("seed", range(8))
def test_no_layout_is_better(seed):
    dice = random.Random(seed)
    for _ in range(60):
        gpus = dice.choice([4, 6, 8])
        roles = [(dice.randint(1, gpus), dice.choice([1, 1, 2, 3, 4]), dice.randint(1, 3)) for _ in range(2)]
        demands = [Demand(f"i{r}.{i}", f"role{r}", tp, pp) for r, (tp, pp, n) in enumerate(roles) for i in range(n)]
        if sum(demand.size for demand in demands) > 4 * gpus:
            continue
        made = layout(demands, Cluster(gpus))
        pairs = sum(len({seat.node for seat in seats}) for seats in made.seats)
        assert (made.node_count, pairs) == best([(d.tp, d.pp) for d in demands], gpus), (gpus, roles)


def test_the_grid():
    assert len(list(topologies())) == 4608
    assert figures() == {"nodes": 41475, "needless splits": 0, "unused nodes": 0, "round-ups": 0, "overlaps": 0}


@pytest.mark.parametrize("gpus", GPUS)
@pytest.mark.parametrize("tp", SIZES)
def test_the_grids_node_counts_are_optimal_where_a_group_fits_a_node(gpus, tp):
    for other in SIZES:
        if max(tp, other) > gpus:
            continue
        for many, more in ((1, 2), (2, 3), (3, 1), (3, 4)):
            demands = [Demand(f"c{i}", "context", tp) for i in range(many)] + [Demand(f"g{i}", "generation", other) for i in range(more)]
            assert layout(demands, Cluster(gpus)).node_count == best([(d.tp, 1) for d in demands], gpus)[0]
