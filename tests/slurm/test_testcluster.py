"""The test cluster is what it says: several hosts, that can fail one by one."""

from slurm_hosts import Cluster, wait_for


def test_every_node_is_a_host_of_its_own(cluster: Cluster) -> None:
    seen = cluster.login("srun", f"-N{len(cluster.nodes)}", "bash", "-c", "echo $(hostname) $(hostname -i) $(ls /dev/shm | wc -l)").stdout
    rows = [line.split() for line in seen.splitlines()]
    assert sorted(row[0] for row in rows) == cluster.nodes
    assert len({row[1] for row in rows}) == len(cluster.nodes)


def test_gpus_are_given_and_hidden(cluster: Cluster) -> None:
    argv = ("bash", "-c", "echo ${CUDA_VISIBLE_DEVICES:-none}")
    assert cluster.login("srun", "--gpus-per-node=2", *argv).stdout.strip() == "0,1"
    assert cluster.login("srun", *argv).stdout.strip() == "none"


def test_one_mpi_world_over_all_nodes(cluster: Cluster) -> None:
    seen = cluster.login("srun", f"-N{len(cluster.nodes)}", "--mpi=pmix", "bash", "-c", "echo $PMIX_RANK $SLURM_PROCID").stdout
    assert sorted(seen.split()) == sorted(2 * [str(i) for i in range(len(cluster.nodes))])


def test_a_cut_node_is_unreachable_until_healed(cluster: Cluster) -> None:
    node, other = cluster.nodes[:2]

    def reaches() -> bool:
        return cluster.on(other, "timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{node}/6818", check=False).returncode == 0

    assert reaches()
    cluster.fault(node, "cut")
    assert not reaches()
    cluster.fault(node, "heal")
    wait_for(reaches, 10)


def test_a_node_without_power_has_no_processes_and_comes_back(cluster: Cluster) -> None:
    node = cluster.nodes[-1]
    cluster.fault(node, "poweroff")
    assert cluster.on(node, "true", check=False).returncode != 0
    cluster.fault(node, "poweron")
    wait_for(lambda: cluster.login("srun", "-w", node, "hostname", check=False).stdout.strip() == node)


def test_up_is_idempotent(cluster: Cluster) -> None:
    before = cluster.on(cluster.nodes[0], "stat", "-c", "%Y", "/proc/1").stdout
    cluster.tool("up", "--nodes", str(len(cluster.nodes)))
    assert cluster.on(cluster.nodes[0], "stat", "-c", "%Y", "/proc/1").stdout == before
