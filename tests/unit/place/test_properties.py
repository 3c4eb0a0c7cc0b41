"""What holds for every layout, whatever is asked."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch.place import POLICIES, Cluster, Demand, NoRoom, Region, layout
from disagg_launch.place.seats import alignment

sizes = st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(1, 2))


@st.composite
def asked(draw):
    demands = []
    for role, word in (("context", "ctx"), ("generation", "gen")):
        shape = draw(sizes)
        demands += [Demand(f"{word}{i}", role, *shape) for i in range(draw(st.integers(0, 4)))]
    if demands and draw(st.booleans()):
        demands[0] = replace(demands[0], nodes=(draw(st.integers(0, 3)),))
    gpus = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
    nodes = draw(st.one_of(st.none(), st.integers(1, 24)))
    groups = ()
    if draw(st.booleans()) and nodes:
        groups = (Region(0, nodes, gpus, "a"), Region(nodes, draw(st.integers(1, 12)), draw(st.sampled_from([4, 8])), "b"))
    numbers = st.integers(0, 5)
    return demands, Cluster(
        gpus,
        nodes,
        policy=draw(st.sampled_from(sorted(POLICIES))),
        domain_nodes=draw(st.integers(1, 20)),
        spare_nodes=draw(st.integers(0, 2)),
        excluded_nodes=draw(st.frozensets(numbers, max_size=2)),
        excluded_gpus=draw(st.dictionaries(numbers, st.just((0,)), max_size=2)),
        groups=groups,
    )


@given(asked())
@settings(max_examples=250, deadline=None)
def test_the_hard_rules(case):
    demands, cluster = case
    try:
        made = layout(demands, cluster)
    except NoRoom:
        return
    gpus_of = {node: region.gpus for region in made.regions for node in region.numbers()}
    seats = [seat for row in made.seats for seat in row]
    assert len(gpus_of) == made.node_count
    assert len(set(seats)) == len(seats)
    for demand, row in zip(demands, made.seats):
        assert len(row) == demand.size
        assert all(seat.gpu < gpus_of[seat.node] for seat in row)
        assert len({gpus_of[seat.node] for seat in row}) <= 1
        for start in range(0, demand.size, demand.tp):
            team = Counter(seat.node for seat in row[start : start + demand.tp])
            gpus = gpus_of[row[start].node]
            whole, rest = divmod(demand.tp, gpus)
            assert sorted(team.values(), reverse=True) == [gpus] * whole + [rest] * bool(rest)
    for node, gpus in cluster.excluded_gpus.items():
        assert not {(node, gpu) for gpu in gpus} & set(seats)
    assert not cluster.excluded_nodes & {seat.node for seat in seats}
    keeps_policy(demands, made, cluster)


def keeps_policy(demands, made, cluster):
    nodes = [{seat.node for seat in row} for row in made.seats]
    if cluster.policy == "separate_roles":
        by_role = [set().union(*(n for d, n in zip(demands, nodes) if d.role == role)) for role in ("context", "generation")]
        assert by_role[0].isdisjoint(by_role[1])
    if cluster.policy == "align_domain" and not cluster.groups:
        assert all(len({node // cluster.domain_nodes for node in mine}) <= 1 for mine in nodes)
    if cluster.policy == "spread" and cluster.nodes is None and not cluster.groups:
        used = Counter((d.role, node) for d, mine in zip(demands, nodes) for node in mine)
        assert max(used.values(), default=0) <= 1


@given(asked())
@settings(max_examples=120, deadline=None)
def test_a_power_of_two_starts_at_a_multiple_of_its_size_on_a_node_without_holes(case):
    demands, cluster = case
    try:
        made = layout(demands, cluster)
    except NoRoom:
        return
    if cluster.excluded_gpus:
        return
    for row in made.seats:
        for node in {seat.node for seat in row}:
            gpus = [seat.gpu for seat in row if seat.node == node]
            assert gpus == list(range(gpus[0], gpus[0] + len(gpus)))
            assert gpus[0] % alignment(len(gpus)) == 0
