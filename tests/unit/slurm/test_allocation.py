"""What a job's variables say about its hosts, and which host takes a lost one's place."""

import pytest

from disagg_launch.backends.slurm import header
from disagg_launch.errors import BackendRefused, BadInput
from disagg_launch.plan import Instance, Plan
from disagg_launch.runtime import allocation
from disagg_launch.runtime.binding import Binding
from disagg_launch.runtime.spares import rebound, surplus

PLAN = Plan("x", 2, 1, (), ())
BOUND = Binding(("a", "b", "c", "d"), ("1", "2", "3", "4"))


def test_hosts_come_in_the_jobs_order() -> None:
    assert allocation.hosts({"SLURM_JOB_NODELIST": "n[3,1-2],m"}) == ("n3", "n1", "n2", "m")
    parts = {"SLURM_HET_SIZE": "2", "SLURM_JOB_NODELIST_HET_GROUP_0": "b[1-2]", "SLURM_JOB_NODELIST_HET_GROUP_1": "a1"}
    assert allocation.hosts(parts) == ("b1", "b2", "a1")


def test_outside_of_a_job_there_are_none() -> None:
    with pytest.raises(BackendRefused, match="salloc"):
        allocation.hosts({})


def test_the_task_of_an_array_is_named_by_both_numbers() -> None:
    assert allocation.job({"SLURM_JOB_ID": "8"}) == "8"
    assert allocation.job({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}) == "7_1"


def test_addresses_are_put_in_the_order_of_the_hosts() -> None:
    assert allocation.addresses(["b", "a"], ["a 10.0.0.1\n", "b 10.0.0.2\n"]) == ("10.0.0.2", "10.0.0.1")
    with pytest.raises(BackendRefused, match="b did not say"):
        allocation.addresses(["b", "a"], ["a 10.0.0.1\n"])


def test_an_address_is_found_by_interface_and_by_subnet() -> None:
    assert allocation.address("lo") == allocation.address("127.0.0.0/8") == "127.0.0.1"
    with pytest.raises(BackendRefused, match=r"lo 127\.0\.0\.1"):
        allocation.address("hsn9")


@pytest.mark.parametrize(
    ("nodes", "lost", "hosts"),
    [
        ([0, 1], [], "abcd"),
        ([1], ["b"], "acbd"),
        ([1], ["b", "c"], "adcb"),
        ([0, 1], ["a", "b"], "cdab"),
        ([0], ["b"], "abcd"),
    ],
)
def test_a_lost_host_and_the_first_good_spare_change_places(nodes: list[int], lost: list[str], hosts: str) -> None:
    fresh = rebound(PLAN, BOUND, nodes, lost)
    assert "".join(fresh.hosts) == hosts
    assert dict(zip(fresh.hosts, fresh.addresses)) == dict(zip(BOUND.hosts, BOUND.addresses))


def test_without_a_spare_the_loss_is_said() -> None:
    with pytest.raises(BackendRefused, match=r"b is lost.*spare_nodes"):
        rebound(PLAN, BOUND, [1], ["b", "c", "d"])


def test_hosts_of_instances_at_rest_are_spare_and_the_last_ones_go_back() -> None:
    plan = Plan("x", 4, 1, tuple(Instance(f"gen{n}", "generation", n, 1, (n,), 8001 + n) for n in range(4)), ())
    assert "".join(rebound(plan, BOUND, [1], ["b"], {"gen2"}).hosts) == "acbd"
    with pytest.raises(BackendRefused):
        rebound(plan, BOUND, [1], ["b"])
    assert surplus(plan, BOUND, (), (), 0) == []
    assert surplus(plan, BOUND, {"gen2", "gen3"}, (), 0) == ["d", "c"]
    assert surplus(plan, BOUND, {"gen2", "gen3"}, (), 1) == ["d"]
    assert surplus(plan, BOUND, {"gen2", "gen3"}, {"d"}, 0) == ["c"]
    # the first two are the gateway's and its deputy's
    assert surplus(plan, BOUND, {"gen0", "gen1", "gen2", "gen3"}, (), 2) == ["d"]
    assert surplus(plan, BOUND, {"gen1"}, (), 0) == []


def test_an_array_gets_the_largest_sizes_and_refuses_other_differences() -> None:
    small = ["--nodes=2", "--ntasks-per-node=4", "--time=10", "--job-name=s"]
    large = ["--nodes=3", "--ntasks-per-node=1", "--time=10", "--job-name=l"]
    assert header.merged(["s", "l"], [small, large]) == ["--nodes=3", "--ntasks-per-node=4", "--time=10"]
    with pytest.raises(BadInput, match="--time=20"):
        header.merged(["s", "l"], [small, [*large[:2], "--time=20"]])
