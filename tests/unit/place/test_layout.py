"""The hard rules and the order of goals, on plain data."""

import pytest

from disagg_launch.place import Cluster, Demand, NoRoom, Region, layout
from disagg_launch.plan import PREFIX


def nodes_of(made, i):
    return [seat.node for seat in made.seats[i]]


def gpus_of(made, i):
    return [seat.gpu for seat in made.seats[i]]


def instances(role, count, *sizes, **more):
    return [Demand(f"{PREFIX[role]}{i}", role, *sizes, **more) for i in range(count)]


def test_roles_share_a_node_and_no_gpu_is_given_twice():
    made = layout(instances("context", 2, 1) + instances("generation", 1, 2), Cluster(4))
    assert made.node_count == 1
    seats = [seat for row in made.seats for seat in row]
    assert len(set(seats)) == 4


def test_a_tensor_parallel_group_stays_on_a_node_even_if_that_costs_one():
    made = layout(instances("context", 3, 3), Cluster(4))
    assert made.node_count == 3
    assert all(len(set(nodes_of(made, i))) == 1 for i in range(3))


def test_a_group_larger_than_a_node_fills_whole_nodes_and_its_rest_stays_together():
    made = layout(instances("context", 1, 6) + instances("generation", 1, 2), Cluster(4))
    assert nodes_of(made, 0) == [0, 0, 0, 0, 1, 1]
    assert nodes_of(made, 1) == [1, 1]
    assert made.node_count == 2


def test_an_instance_that_must_cross_nodes_does_so_between_pipeline_stages():
    made = layout(instances("context", 1, 3, 3), Cluster(8))
    assert nodes_of(made, 0) == [0] * 6 + [1] * 3


def test_pieces_end_at_stages_rather_than_between_context_parallel_groups():
    # 3 stages of 3 groups of 2: four groups fit a node, but three make a whole stage and need no more nodes
    made = layout([Demand("ctx0", "context", 2, 3, 3)], Cluster(8))
    assert nodes_of(made, 0) == [0] * 6 + [1] * 6 + [2] * 6


def test_an_instance_is_split_only_if_that_saves_a_node():
    three = layout(instances("context", 3, 1, 3), Cluster(4))
    assert three.node_count == 3
    assert all(len(set(nodes_of(three, i))) == 1 for i in range(3))
    four = layout(instances("context", 4, 1, 3), Cluster(4))
    assert four.node_count == 3


def test_powers_of_two_start_at_multiples_of_their_size():
    made = layout(instances("context", 1, 1) + instances("generation", 1, 4) + [Demand("x", "context", 2)], Cluster(8))
    assert gpus_of(made, 1) == [0, 1, 2, 3]
    assert gpus_of(made, 2) == [4, 5]
    assert gpus_of(made, 0) == [6]


def test_gpus_are_taken_in_plan_order_where_that_leaves_all_aligned():
    made = layout(instances("context", 2, 1) + instances("generation", 1, 2), Cluster(4))
    assert [gpus_of(made, i) for i in range(3)] == [[0], [1], [2, 3]]


def test_an_instances_nodes_follow_each_other_in_plan_order():
    made = layout(instances("context", 2, 4) + instances("generation", 2, 8, 2), Cluster(8))
    assert nodes_of(made, 0) == [0] * 4
    assert nodes_of(made, 2) == [1] * 8 + [2] * 8
    assert nodes_of(made, 3) == [3] * 8 + [4] * 8


def test_the_same_arguments_give_the_same_layout():
    demands = instances("context", 5, 3, 2) + instances("generation", 4, 2, 3)
    assert layout(demands, Cluster(8)) == layout(list(demands), Cluster(8))


def test_nothing_to_place_needs_no_node():
    assert layout([], Cluster(8)).node_count == 0


def test_too_few_nodes():
    with pytest.raises(NoRoom, match="ctx1"):
        layout(instances("context", 2, 4), Cluster(4, nodes=1))


def test_spare_nodes_are_kept_free():
    assert layout(instances("context", 2, 4), Cluster(4, nodes=3, spare_nodes=1)).node_count == 2
    with pytest.raises(NoRoom):
        layout(instances("context", 2, 4), Cluster(4, nodes=2, spare_nodes=1))


def test_excluded_nodes_and_gpus_get_nothing():
    cluster = Cluster(4, excluded_nodes=frozenset({0}), excluded_gpus={1: (0,)})
    made = layout(instances("context", 1, 2) + instances("generation", 1, 4), cluster)
    assert (nodes_of(made, 0), gpus_of(made, 0)) == ([1, 1], [2, 3])
    assert nodes_of(made, 1) == [2] * 4


def test_a_run_of_gpus_is_kept_where_a_hole_allows_it():
    made = layout(instances("context", 1, 3), Cluster(4, nodes=1, excluded_gpus={0: (0,)}))
    assert gpus_of(made, 0) == [1, 2, 3]
    made = layout(instances("context", 1, 3), Cluster(4, nodes=1, excluded_gpus={0: (1,)}))
    assert gpus_of(made, 0) == [0, 2, 3]


class TestPolicies:
    def test_separate_roles_never_share_a_node(self):
        demands = instances("context", 2, 1) + instances("generation", 1, 2)
        assert layout(demands, Cluster(4)).node_count == 1
        made = layout(demands, Cluster(4, policy="separate_roles"))
        assert made.node_count == 2
        assert {*nodes_of(made, 0), *nodes_of(made, 1)}.isdisjoint(nodes_of(made, 2))

    def test_separate_roles_counts_pinned_instances(self):
        demands = [Demand("ctx0", "context", 1, nodes=(0,)), Demand("gen0", "generation", 1)]
        made = layout(demands, Cluster(4, policy="separate_roles"))
        assert (nodes_of(made, 0), nodes_of(made, 1)) == ([0], [1])

    def test_spread_gives_each_instance_of_a_role_its_own_node(self):
        demands = instances("context", 3, 1) + instances("generation", 2, 2)
        made = layout(demands, Cluster(4, policy="spread"))
        assert sorted(nodes_of(made, i)[0] for i in range(3)) == [0, 1, 2]
        assert nodes_of(made, 3)[0] != nodes_of(made, 4)[0]
        assert made.node_count == 3

    def test_spread_over_fewer_nodes_is_even(self):
        made = layout(instances("context", 4, 1), Cluster(4, nodes=2, policy="spread"))
        assert sorted(nodes_of(made, i)[0] for i in range(4)) == [0, 0, 1, 1]

    def test_spread_takes_different_domains_first(self):
        made = layout(instances("context", 2, 1), Cluster(4, nodes=8, policy="spread", domain_nodes=4))
        assert sorted(nodes_of(made, i)[0] // 4 for i in range(2)) == [0, 1]

    def test_spread_gives_way_where_it_leaves_no_room(self):
        demands = instances("context", 2, 2) + instances("generation", 1, 4)
        assert layout(demands, Cluster(4, nodes=2, policy="spread")).node_count == 2

    def test_align_domain_keeps_an_instance_inside(self):
        demands = instances("context", 3, 4, 2)
        made = layout(demands, Cluster(4, policy="align_domain", domain_nodes=3))
        assert all(len({node // 3 for node in nodes_of(made, i)}) == 1 for i in range(3))
        assert [nodes_of(made, i)[0] for i in range(3)] == [0, 3, 6]

    def test_align_domain_refuses_what_is_larger_than_a_domain(self):
        with pytest.raises(NoRoom, match="ctx0 needs 4 nodes, and a domain has 3"):
            layout(instances("context", 1, 4, 4), Cluster(4, policy="align_domain", domain_nodes=3))


class TestPins:
    def test_nodes_share_a_pinned_instance_equally(self):
        made = layout([Demand("ctx0", "context", 2, 2, nodes=(1, 0)), Demand("gen0", "generation", 2)], Cluster(4))
        assert nodes_of(made, 0) == [1, 1, 0, 0]

    def test_gpus(self):
        made = layout([Demand("ctx0", "context", 2, nodes=(0,), gpus=(3, 2)), Demand("gen0", "generation", 2)], Cluster(4))
        assert (gpus_of(made, 0), gpus_of(made, 1)) == ([3, 2], [0, 1])

    def test_gpus_on_any_node(self):
        demands = [Demand(f"ctx{i}", "context", 2, gpus=(0, 1)) for i in range(2)]
        made = layout(demands, Cluster(4))
        assert [nodes_of(made, i) for i in range(2)] == [[0, 0], [1, 1]]

    @pytest.mark.parametrize(
        ("pin", "text"),
        [
            ({"nodes": (7,)}, "the cluster has nodes 0-3"),
            ({"nodes": (0, 1, 2)}, "pinned to 3 nodes, but it has 2 tensor-parallel groups"),
            ({"nodes": (0,), "gpus": (0, 9)}, "that node has GPUs 0-3"),
            ({"nodes": (0,), "gpus": (0, 1)}, "needs 4 GPUs there"),
            ({"nodes": (2,)}, "which is excluded"),
            ({"nodes": (1,)}, "where 3 GPUs are free and 4 are needed"),
            ({"gpus": (0,)}, "must not cross nodes"),
        ],
    )
    def test_a_pin_that_cannot_be_kept_is_refused(self, pin, text):
        cluster = Cluster(4, nodes=4, excluded_nodes=frozenset({2}), excluded_gpus={1: (0,)})
        with pytest.raises(NoRoom, match=text):
            layout([Demand("ctx0", "context", 2, 2, **pin)], cluster)

    def test_two_pins_on_one_gpu_are_refused(self):
        demands = [Demand(f"ctx{i}", "context", 1, nodes=(0,), gpus=(0,)) for i in range(2)]
        with pytest.raises(NoRoom, match="pinned to another instance"):
            layout(demands, Cluster(4))


class TestGroups:
    groups = (Region(0, 2, 4, "a100"), Region(2, 2, 8, "h100"))

    def test_the_larger_nodes_are_taken_first_and_unused_ones_are_not_counted(self):
        made = layout(instances("context", 1, 8), Cluster(8, groups=self.groups))
        assert made.regions == (Region(0, 1, 8, "h100"),)
        assert nodes_of(made, 0) == [0] * 8

    def test_an_instance_never_crosses_groups(self):
        made = layout(instances("context", 3, 8), Cluster(8, groups=self.groups))
        assert made.node_count == 4
        assert [nodes_of(made, i) for i in range(3)] == [[2] * 8, [3] * 8, [0] * 4 + [1] * 4]

    def test_roles_keep_to_their_groups(self):
        groups = (Region(0, 2, 4, "a", ("context",)), Region(2, 2, 8, "b", ("generation",)))
        made = layout(instances("context", 1, 2) + instances("generation", 1, 2), Cluster(8, groups=groups))
        assert (nodes_of(made, 0), nodes_of(made, 1)) == ([0, 0], [1, 1])
        assert [(r.name, r.count) for r in made.regions] == [("a", 1), ("b", 1)]

    def test_numbers_stay_if_the_file_speaks_of_nodes(self):
        made = layout([Demand("ctx0", "context", 2, nodes=(3,))], Cluster(8, groups=self.groups))
        assert nodes_of(made, 0) == [3, 3]
        assert made.regions == self.groups
