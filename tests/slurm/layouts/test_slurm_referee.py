"""Slurm puts every rank on the node that the plan says, and takes the requests that come out of it."""

import shlex
import stat
import sys
from pathlib import Path

import pytest

from disagg_launch.layouts.table import FORMS

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e" / "layouts"))
from random_plans import plans
from referees import disagreements, write

GPUS = 4  # of every node of the test cluster
# Stands in for the zipapp that the forms start: a task says which it is, where it is, and what it was told.
TELL = 'import os, socket; e = os.environ; print(e["SLURM_PROCID"], socket.gethostname(), e.get("DISAGG_INSTANCE", "-"))\n'


@pytest.fixture
def planned(cluster):
    """Plans that the test cluster can hold."""
    return lambda seed, count: plans(seed, count, nodes=len(cluster.nodes), gpus=(GPUS,))


@pytest.fixture
def shared(cluster):
    """A folder that every node sees."""
    folder = Path("/tmp") / f"layouts-{cluster.name}"
    folder.mkdir(exist_ok=True)
    (folder / "runtime.pyz").write_text(TELL)
    yield folder
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def srun(cluster, plan, folder, *argv):
    """The words that every task printed."""
    options = ["--distribution=arbitrary", "-n", str(len(plan.ranks)), "--overcommit", "--mpi=none", "--chdir", str(folder)]
    done = cluster.login("env", f"SLURM_HOSTFILE={folder / 'slurm-hostfile'}", "srun", *options, *argv, cwd=folder)
    return [line.split() for line in done.stdout.splitlines()]


def test_ranks_are_where_the_host_file_says(cluster, planned, shared):
    for plan in planned(seed=4, count=4):
        write(plan, cluster.nodes, shared, ["slurm-hostfile"])
        said = {int(rank): host for rank, host, _ in srun(cluster, plan, shared, "python3", "runtime.pyz")}
        assert not disagreements(plan, cluster.nodes, said, "Slurm")


def test_each_task_runs_what_the_multi_prog_file_says(cluster, planned, shared):
    for plan in planned(seed=5, count=2):
        write(plan, cluster.nodes, shared, ["slurm-hostfile", "multi-prog"])
        rows = srun(cluster, plan, shared, "--multi-prog", "multi-prog")
        assert {int(rank): instance for rank, _, instance in rows} == {row.rank: row.instance for row in plan.ranks}
        assert not disagreements(plan, cluster.nodes, {int(rank): host for rank, host, _ in rows}, "Slurm")


def test_the_request_is_accepted(cluster, planned, shared):
    for plan in planned(seed=6, count=8):
        script = shared / "job.sbatch"
        script.write_text("#!/bin/sh\n" + FORMS["het-groups"].write(plan, cluster.nodes) + "true\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        done = cluster.login("sbatch", "--test-only", str(script), check=False)
        assert done.returncode == 0, f"{script.read_text()}\n{done.stderr}"


def test_a_request_for_more_than_there_is_is_refused(cluster, shared):
    done = cluster.login("sbatch", "--test-only", *shlex.split(f"--nodes=99 --gpus-per-node={GPUS} --wrap true"), check=False)
    assert done.returncode != 0
