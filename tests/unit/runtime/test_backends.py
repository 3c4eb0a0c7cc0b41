"""Scripts of the local and mpirun backends: explicit mapping, one exec, nothing that a shell could take for something else."""

import json
import pathlib
import subprocess
import sys
import types

import pytest

from disagg_launch import backends
from disagg_launch.backends.mpirun import FLAVORS, host_lines
from disagg_launch.errors import BadInput
from disagg_launch.launch import Worker
from disagg_launch.plan import CONTEXT, GENERATION, Instance, Plan, Rank
from disagg_launch.spec.maps import Mpi
from disagg_launch.spec.source import Source


def layout():
    """ctx0 with one rank on node 1; gen0 with three ranks on nodes 0, 1 and 0: neighbours in rank are not neighbours in place."""
    ranks = (
        Rank(0, "ctx0", CONTEXT, 0, 0, 0, 1, 0),
        Rank(1, "gen0", GENERATION, 0, 0, 0, 0, 0),
        Rank(2, "gen0", GENERATION, 1, 1, 0, 1, 1),
        Rank(3, "gen0", GENERATION, 2, 2, 0, 0, 1),
    )
    instances = (Instance("ctx0", CONTEXT, 0, 1, (1,), 8001), Instance("gen0", GENERATION, 1, 3, (0, 1), 8002))
    return Plan("two", 2, 2, instances, ranks).sealed()


def render(backend, python="python3", in_process="", **mpi):
    spec = types.SimpleNamespace(mpi=Mpi(**mpi), source=Source("t.yaml"))
    workers = tuple(Worker(i.name, ("python3", "-m", "engine"), gpus=False, in_process=in_process) for i in layout().instances)
    starts, files = backends.load(backend).render(spec, layout(), workers, python)
    return starts, {one.path: one.text for one in files}


@pytest.mark.parametrize(
    ("flavor", "hosts", "lines"),
    [
        ("mpich", ["b", "a", "a", "b"], "b:1\na:2\nb:1\n"),
        ("openmpi", ["b", "a", "a", "b"], "b\na\na\nb\n"),
        ("openmpi", ["a", "a", "a"], "a slots=3\n"),
    ],
)
def test_host_files_are_in_rank_order(flavor, hosts, lines):
    assert host_lines(FLAVORS[flavor], hosts) == lines


def test_one_mpirun_names_a_host_for_every_rank():
    starts, files = render("mpirun", hosts=("n0", "n1"))
    assert [(s.step, s.size, s.launcher, s.instances) for s in starts] == [("world", 4, "hydra", ("ctx0", "gen0"))]
    assert files["configs/hosts"] == "n1:1\nn0:1\nn1:1\nn0:1\n"
    assert files["steps/world.sh"].count("exec mpiexec") == 1 and "-f configs/hosts" in files["steps/world.sh"]
    _, files = render("mpirun", hosts=("n0", "n1"), flavor="openmpi", command="/opt/mpi/bin/mpirun", args=("--mca", "btl", "self,tcp"))
    assert files["configs/hosts"] == "n1\nn0\nn1\nn0\n"
    assert json.loads(files["binding.json"])["hosts"] == ["n0", "n1"] and "-x DISAGG_GATEWAY" in files["steps/world.sh"]
    assert "--map-by seq" in files["steps/world.sh"] and "self,tcp" in files["steps/world.sh"]


def test_too_few_hosts_are_refused():
    with pytest.raises(BadInput, match=r"mpi.hosts: found 1 hosts; needed: 2"):
        render("mpirun", hosts=("n0",))


def test_mpich_is_the_one_beside_the_interpreter_and_open_mpi_the_machines():
    for flavor, program in (("mpich", "/venv/bin/mpiexec"), ("openmpi", "mpirun")):
        _, files = render("mpirun", "/venv/bin/python", flavor=flavor)
        assert f"exec {program} " in files["steps/world.sh"]
    assert "exec mpiexec " in render("mpirun")[1]["steps/world.sh"]
    assert "exec /opt/mpiexec " in render("mpirun", command="/opt/mpiexec")[1]["steps/world.sh"]


def test_local_steps_are_plain_processes_unless_their_ranks_need_a_world():
    starts, files = render("local")
    assert [s.launcher for s in starts] == ["local", "local"]
    assert "spread" in files["steps/gen0.sh"] and "rank" in files["steps/ctx0.sh"]
    starts, files = render("local", in_process="engine:run")
    assert [s.launcher for s in starts] == ["local", "hydra"]
    assert "mpiexec" in files["steps/gen0.sh"] and "mpiexec" not in files["steps/ctx0.sh"]


@pytest.mark.parametrize("backend", ["local", "mpirun"])
@pytest.mark.parametrize("python", ["python3", "/opt/my python/$(touch HIT)/`x`/py'thon\n3"])
def test_scripts_are_clean_and_carry_every_path_as_it_is(tmp_path, backend, python):
    _, files = render(backend, python, in_process="engine:run")
    check = str(pathlib.Path(sys.executable).with_name("shellcheck"))
    for path, text in files.items():
        if path.endswith(".sh"):
            # SC2016 tells that `$()` in single quotes does not run: that is what is wanted
            done = subprocess.run([check, "-s", "bash", "-e", "SC2016", "-"], input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
            # bash itself reads the words of the last command; `exec` is replaced by a function that prints them
            told = text.replace('cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."', "").replace("exec ", "printf '%s\\0' ")
            words = subprocess.run(["bash", "-c", told], capture_output=True, text=True, cwd=tmp_path, check=True).stdout.split("\0")
            assert python in words
    assert list(tmp_path.iterdir()) == []
