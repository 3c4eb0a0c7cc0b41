"""Open MPI's mapper and MPICH's ranks agree with the plan, rank by rank."""

import sys
from pathlib import Path

import pytest
from random_plans import plans
from referees import disagreements, hosts_of, mpich, open_mpi, write

pytestmark = [pytest.mark.mpi, pytest.mark.xdist_group("mpi-referees")]
FORMS = ("hostfile", "rankfile", "map-by", "appfile", "slurm-hostfile", "machinefile")


@pytest.fixture
def mpirun(openmpi5):
    return openmpi5 / "bin" / "mpirun"


@pytest.fixture(scope="session")
def mpiexec():
    program = Path(sys.executable).parent / "mpiexec"
    if not program.exists():
        pytest.skip("MPICH's mpiexec is not beside the interpreter: pip install mpich")
    return program


@pytest.mark.parametrize("form", ["rankfile", "map-by", "appfile"])
def test_open_mpi_maps_as_planned(mpirun, tmp_path, form):
    for plan in plans(seed=1, count=10):
        hosts = hosts_of(plan)
        write(plan, hosts, tmp_path, FORMS)
        assert not disagreements(plan, hosts, open_mpi(plan, tmp_path, mpirun, form), f"Open MPI by {form}")


def test_mpich_starts_ranks_as_planned(mpiexec, tmp_path):
    for plan in plans(seed=2, count=25):
        hosts = hosts_of(plan)
        write(plan, hosts, tmp_path, FORMS)
        assert not disagreements(plan, hosts, mpich(plan, tmp_path, mpiexec), "MPICH")


def test_a_referee_that_disagrees_is_heard(mpiexec, tmp_path):
    plan = next(p for p in plans(seed=3, count=20) if p.node_count > 1)
    hosts = hosts_of(plan)
    write(plan, hosts, tmp_path, FORMS)
    moved = (tmp_path / "machinefile").read_text().replace(hosts[plan.ranks[0].node], "elsewhere")
    (tmp_path / "machinefile").write_text(moved)
    assert "rank 0 on elsewhere" in disagreements(plan, hosts, mpich(plan, tmp_path, mpiexec), "MPICH")[0]
