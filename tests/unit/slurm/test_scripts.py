"""The rendered scripts, whole, against golden files; and what a reader of the scripts may rely on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from disagg_launch import engines, place, spec
from disagg_launch.backends import slurm
from disagg_launch.files import File

BASE = """\
name: demo
model: none
engine: {name: vllm, program: vllm}
cluster: {nodes: 4, gpus_per_node: 4, policy: spread}
context_servers: {num_instances: 2, tensor_parallel_size: 4}
generation_servers: {num_instances: 1, tensor_parallel_size: 4, pipeline_parallel_size: 2}
"""
CASES = {
    "plain": BASE + "slurm: {}\n",
    "everything": BASE
    + """\
slurm:
  site: pyxis
  account: team
  partition: gpu,gpu-long
  qos: high
  reservation: maint_7
  constraint: "[rack1|rack2]&h200"
  time: 1-02:00:00
  comment: a run for the paper (50 % done)
  mail_type: END,FAIL
  mail_user: someone@example.org
  dependency: afterok:17:18
  requeue: true
  nodelist: node[01-04]
  exclude_hosts: node09
  exclusive: true
  segment: 2
  switches: 1@10
  cpus_per_task: 8
  memory: 0
  gpu_type: h200
  extra_args: ["--licenses=matlab:1", --hint=nomultithread]
  srun_args: ["--network=single_vni", "--task-prolog=/a folder/it's $HOME.sh"]
  container_image: /images/engine v1.sqsh
  container_mounts: [/models:/models:ro, "/data/with blank:/data"]
  container_name: engine
  container_workdir: /work dir
  numa_bind: true
  signal_s: 120
""",
    "gres": BASE + "slurm: {gpus_flag: gres, gpu_type: a100, container: apptainer, container_image: /images/engine.sif}\n",
    "whole-nodes": BASE + "slurm: {site: slingshot}\n",
    "single-srun": BASE + "slurm: {mode: single-srun, mpi: pmi2}\n",
    "single-mpirun": BASE + "mpi: {flavor: openmpi}\nslurm: {mode: single-mpirun}\n",
    "single-mpiexec": BASE + "mpi: {flavor: mpich}\nslurm: {mode: single-mpirun}\n",
    "het": BASE.replace("spread", "separate_roles")
    + "slurm: {het: {context: {partition: big, gpu_type: h200}, generation: {partition: small, constraint: ib}}}\n",
    "further": BASE + "slurm: {}\nrouter: {name: none, run: ../..}\ndisagg_cluster: {cluster_uri: 'http://head:8000'}\n",
    "several-networks": BASE + "slurm: {interface: 10.1.0.0/16}\n",
}


def scripts(text: str) -> tuple[File, ...]:
    """What the backend renders for a topology."""
    topology = spec.loads(text)
    plan = place.place(topology)
    engine = engines.load(topology.engine.name)
    workers = tuple(engine.worker(topology, plan, one) for one in plan.instances)
    return slurm.render(topology, plan, workers, topology.engine.python or "python3")[1]


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_as_agreed(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"slurm/{name}.txt", "".join(f"==> {one.path} <==\n{one.text!s}" for one in scripts(CASES[name])))


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_clean(name: str, tmp_path: Path) -> None:
    paths = []
    for one in scripts(CASES[name]):
        path = tmp_path / one.path.replace("/", "-")
        path.write_text(str(one.text))
        subprocess.run(["bash", "-n", str(path)], check=True)
        paths.append(str(path))
    # SC2016: "expressions don't expand in single quotes". That they do not is what quoting is for
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    done = subprocess.run([shellcheck, "--shell=bash", "--exclude=SC2016", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CASES)
def test_a_job_is_short_and_a_step_is_one_srun(name: str) -> None:
    for one in scripts(CASES[name]):
        lines = str(one.text).splitlines()
        assert len(lines) < 80
        if one.path.startswith("steps/") and one.path not in (slurm.STOP, slurm.LOST, slurm.RELEASE):
            starts = [line for line in lines if line.startswith(("exec srun", "exec -- mpirun", "exec -- mpiexec"))]
            assert len(starts) == 1


def test_no_step_asks_for_gpus_of_the_whole_step() -> None:
    for text in CASES.values():
        assert all("--gpus=" not in str(one.text) for one in scripts(text))
