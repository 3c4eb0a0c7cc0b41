"""Workers on real GPUs. Left out where there are not two of them with PyTorch: `make test-gpu` says why."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import pytest
from deployments import HERE

from disagg_launch.launch import Readiness, Ref, Worker

if not shutil.which("nvidia-smi") or subprocess.run(["nvidia-smi", "-L"], capture_output=True).stdout.count(b"GPU ") < 2:
    pytest.skip("needs two NVIDIA GPUs (and PyTorch)", allow_module_level=True)
if not importlib.util.find_spec("torch"):
    pytest.skip("needs PyTorch (and has two NVIDIA GPUs)", allow_module_level=True)


@pytest.fixture
def on_gpus(deploy):
    """on_gpus({instance: how}, ...) is a deployment of real GPU workers; `sizes` are their numbers of ranks."""

    def build(hows, **more):
        argv = (sys.executable, str(HERE / "gpu_worker.py"), (Ref("port"),))
        workers = [Worker(name, (*argv, how)) for name, how in hows.items()]
        return deploy(more.pop("sizes", (1,) * len(hows)), workers=workers, **more)

    return build


def verdict(run):
    return json.loads((run.run / "state" / "verdict.json").read_text())


def test_each_instance_has_the_gpu_of_its_plan(on_gpus):
    run = on_gpus({"ctx0": "hold", "ctx1": "hold"})
    assert run.up().ready()
    listed = re.findall(r"UUID: GPU-(\S+)\)", subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout)
    held = [re.search(r" on (\S+)", run.log(name)).group(1) for name in ("ctx0", "ctx1")]
    assert held == listed[:2]
    assert run.stop() == 130


def test_gpu_memory_that_grows_is_getting_on(on_gpus):
    """In silence, with an idle processor and nothing read: the limit is over long before it is ready."""
    run = on_gpus({"ctx0": "fill"}, readiness=Readiness(limit_s=20, interval_s=0.2, stall_s=50))
    assert run.up().ready()
    assert run.stop() == 130


def test_a_rank_that_waits_in_nccl_for_another_is_called_and_its_python_stack_shown(on_gpus):
    run = on_gpus({"ctx0": "join"}, sizes=(2,), readiness=Readiness(limit_s=600, interval_s=0.2, stall_s=10))
    run.up()
    assert run.ready() == "" and run.wait() == 5
    assert "ctx0 has not got on for" in verdict(run)["reason"]
    stacks = (run.run / "logs" / "ctx0.stacks").read_text()
    assert re.search(r" all_reduce \(torch/\S+:\d+\)\n(.*\n)? +join \(gpu_worker\.py:\d+\)", stacks)


@pytest.mark.parametrize(("how", "cause"), [("burst", "gpu-memory"), ("stray", "gpu-illegal-access")])
def test_what_cuda_says_is_understood(on_gpus, how, cause):
    run = on_gpus({"ctx0": how})
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert (verdict(run)["instance"], verdict(run)["cause_name"]) == ("ctx0", cause)


def test_of_two_ranks_in_nccl_the_killed_one_is_named(on_gpus):
    run = on_gpus({"ctx0": "reduce"}, sizes=(2,))
    run.up()
    assert run.ready() == "" and run.wait() == 6
    assert verdict(run)["rank"] == 1 and "SIGKILL" in verdict(run)["how"]
