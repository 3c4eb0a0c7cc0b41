"""Progress that only the companions on other nodes can see."""

from __future__ import annotations

import re
from pathlib import Path

from slurm_deployments import SERVE, Deployment, topology
from slurm_hosts import Cluster

LIMIT_S, STALL_S, GROW_S = 12, 20, 20


def test_a_silent_load_on_other_nodes_is_waited_for_and_its_hang_is_called(cluster: Cluster, tmp_path: Path) -> None:
    """It says nothing, and takes memory until long after the limit: only figures from its nodes show that it gets on, and then stops."""
    grows = {"command": [*SERVE, "--grow-s", str(GROW_S)]}
    one = Deployment(cluster, tmp_path, topology(generation_servers=grows, readiness={"limit_s": LIMIT_S, "stall_s": STALL_S})).submit()
    told = one.fails()
    assert (told["instance"], told["exit_code"]) == ("gen0", 5)
    waited = re.search(r"1 of 3 instances not ready after (\d+) s", told["reason"])
    assert waited is not None
    assert int(waited[1]) >= GROW_S > LIMIT_S
    host = one.hosts()[2]
    assert {rank["host"] for rank in one.instance("gen0")["ranks"]} == {host} != {one.hosts()[0]}
    stacks = (one.run / "logs" / "gen0.stacks").read_text()
    assert f"on {host}:" in stacks
    assert "pid " in stacks
    assert "no answer" not in stacks
