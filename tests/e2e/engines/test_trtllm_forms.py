"""The seven launch forms of TensorRT-LLM's guide, each started whole: workers, front door, one question, the end.

Programs and flags are the real ones; the stand-ins refuse what the real programs refuse and compute with the embedded engine, so that every
form has to give the text of one monolithic process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_deployments import ROOT, Ended

from disagg_launch.plan import PREFIX

SEED = ROOT / "examples/seed"
Up = Callable[..., Ended]


def example(name: str, *changes: tuple[str, str]) -> str:
    """The text of an example with some words changed; each has to be there."""
    text = (SEED / name).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def on(port: int) -> tuple[tuple[str, str], ...]:
    """The examples' etcd, where the tests have it."""
    return (("2379", str(port)),)


def test_standard(up: Up, expected: str) -> None:
    done = up(example("standard.yaml", ("backend: UCX", "backend: DEFAULT")))
    assert done.texts() == (expected, expected)
    environ = done.environ("trtllm-serve")
    assert not [name for name in environ if name.startswith(("SLURM_", "PMIX_", "UCX_"))], "MPI spawn would fail inside another launcher"
    workers = [dict(one["environ"]) for one in done.started if one["program"] == "trtllm-serve"]
    assert sorted(one["CUDA_VISIBLE_DEVICES"] for one in workers) == ["0", "1", "2"], "a GPU each, not the eight of the shell around"


def test_the_example_client(up: Up, tmp_path: Path) -> None:
    """The guide's client, pointed at the deployment by its configuration file, has an answer for every prompt."""
    prompts, answers = ROOT / "examples/prompts.json", tmp_path / "answers.json"
    client = ["-m", "disagg_launch", "client", "-c", str(tmp_path / "spec.yaml"), "-p", str(prompts), "-e", "chat", "-o", str(answers)]
    done = up(example("standard.yaml"), ask=[*client, "--max-tokens", "4"])
    assert done.code == 0, done.err
    texts = json.loads(answers.read_text())
    assert len(texts) == len(json.loads(prompts.read_text()))
    assert all(texts)


def test_llmapi_launch_on_one_node(up: Up, expected: str) -> None:
    done = up(example("llmapi-launch.yaml"))
    assert done.texts() == (expected, expected)
    ports = [dict(one["environ"])["TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR"] for one in done.started if one["program"] == "trtllm-serve"]
    assert len(set(ports)) == len(ports) == 3, "three instances on one node, each with an IPC port of its own"


@pytest.mark.mpi
@pytest.mark.parametrize("flavor", ["mpich", "openmpi"])
def test_llmapi_launch_with_an_mpi_world_for_each_instance(up: Up, expected: str, flavor: str) -> None:
    more = ("tensor_parallel_size: 2", f"mpi:\n  flavor: {flavor}\n{openmpi() if flavor == 'openmpi' else ''}\ncluster:")
    text = example("llmapi-launch.yaml", ("num_instances: 2", f"num_instances: 1\n  {more[0]}"), ("cluster:", more[1]))
    done = up(text)
    assert done.texts() == (expected, expected)
    assert sum(one["program"] == "trtllm-llmapi-launch" for one in done.started) == 4, "two ranks, one rank, and the front door"


def test_service_discovery_by_the_front_door(up: Up, expected: str) -> None:
    assert up(example("discovery-http.yaml")).texts() == (expected, expected)


def test_service_discovery_by_etcd(up: Up, expected: str, etcd: int) -> None:
    assert up(example("discovery-etcd.yaml", *on(etcd))).texts() == (expected, expected)


def test_metadata_server(up: Up, expected: str, etcd: int) -> None:
    assert up(example("metadata-server.yaml", *on(etcd))).texts() == (expected, expected)


def test_workers_register_with_our_own_front_door(up: Up, expected: str) -> None:
    """Requests as upstream's workers send them, against our storage."""
    assert up(example("discovery-http.yaml", ("router:\n  name: trtllm\n", ""))).texts() == (expected, expected)


@pytest.mark.parametrize("role", ["generation", "context"])
def test_mixed_precision(up: Up, expected: str, etcd: int, role: str) -> None:
    """FP8 generation as in the guide, and the other way round."""
    plain, quantised = "meta-llama/Llama-3.1-8B-Instruct\n  num", "./weights/Llama-3.1-8B-Instruct-FP8-KV-BF16\n  num"
    swap = ((plain, "@"), (quantised, plain), ("@", quantised), ("role: generation", "role: context")) if role == "context" else ()
    done = up(example("mixed-precision.yaml", *on(etcd), *swap))
    assert done.texts() == (expected, expected)
    models = {str(next(iter(one["argv"]))) for one in done.started if one["program"] == "trtllm-serve"}
    assert len(models) == 2
    assert (done.run / f"prepare/quantize-{PREFIX[role]}.sh").exists()


@pytest.mark.mpi
def test_mpi_worker(up: Up, expected: str) -> None:
    text = example("mpi-worker.yaml", ("  flavor: openmpi\n", f"  flavor: openmpi\n{openmpi()}"))
    done = up(text, "--backend", "mpirun")
    assert done.texts() == (expected, expected)
    assert "deprecated" in done.err


@pytest.mark.mpi
def test_standard_under_one_mpirun(up: Up, expected: str) -> None:
    """Ranks of one world become processes that start their own: nothing of the launcher around them may be left."""
    text = example("standard.yaml", ("num_instances: 2", "num_instances: 1\n  tensor_parallel_size: 2"))
    done = up(text, "--backend", "mpirun")
    assert done.texts() == (expected, expected)


def openmpi() -> str:
    """The lines that name Open MPI's mpirun, which is not the first one in a PATH that begins with the MPICH wheel's."""
    found = [path for path in (shutil.which("mpirun.openmpi"), "/usr/bin/mpirun") if path and Path(path).exists()]
    if not found:
        pytest.skip("Open MPI is not installed")
    return f"  command: {found[0]}\n"
