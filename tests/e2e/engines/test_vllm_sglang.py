"""vLLM and SGLang: behind the real Rust routers, behind ours, and over several nodes (which are all this machine)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_deployments import ROOT, Ended

EXAMPLES = ROOT / "examples/engines"
Up = Callable[..., Ended]


def routed(name: str, engine: str, command: str) -> str:
    """An example whose front door is the program at a path."""
    text = (EXAMPLES / name).read_text()
    return text.replace(f"router:\n  name: {engine}", f"router:\n  name: {engine}\n  command: [{command}]")


def test_vllm_behind_the_real_vllm_router(up: Up, expected: str, routers: Path) -> None:
    assert up(routed("vllm-nixl.yaml", "vllm", str(routers / "vllm-router"))).texts() == (expected, expected)


def test_vllm_with_mooncake(up: Up, expected: str, routers: Path) -> None:
    """The real router asks each prefill instance's bootstrap server, whose port it is given."""
    assert up(routed("vllm-mooncake.yaml", "vllm", str(routers / "vllm-router"))).texts() == (expected, expected)


def test_sglang_behind_the_real_sglang_router(up: Up, expected: str, routers: Path) -> None:
    command = f"{routers / 'python'}, -m, sglang_router.launch_router"
    assert up(routed("sglang-nixl.yaml", "sglang", command)).texts() == (expected, expected)


@pytest.mark.parametrize("name", ["vllm-nixl.yaml", "sglang-nixl.yaml"])
def test_behind_our_own_front_door(up: Up, expected: str, name: str) -> None:
    text = (EXAMPLES / name).read_text()
    for engine in ("vllm", "sglang"):
        text = text.replace(f"router:\n  name: {engine}\n", "")
    assert up(text).texts() == (expected, expected)


@pytest.mark.parametrize("backend", ["local", pytest.param("mpirun", marks=pytest.mark.mpi)])
def test_vllm_over_two_nodes_for_each_instance(up: Up, expected: str, routers: Path, backend: str) -> None:
    text = (EXAMPLES / "vllm-nodes.yaml").read_text().replace("slurm: {}", f"router: {{name: vllm, command: [{routers / 'vllm-router'}]}}")
    done = up(text.replace("0.0.0.0", "localhost"), "--backend", backend)
    assert done.texts() == (expected, expected)
    ranks = sorted(list(one["argv"])[list(one["argv"]).index("--node-rank") + 1] for one in done.started)
    assert ranks == ["0", "0", "1", "1"]
    assert sum("--headless" in list(one["argv"]) for one in done.started) == 2


@pytest.mark.parametrize("backend", ["local", pytest.param("mpirun", marks=pytest.mark.mpi)])
def test_sglang_over_two_nodes_for_each_instance(up: Up, expected: str, routers: Path, backend: str) -> None:
    router = f"router: {{name: sglang, command: [{routers / 'python'}, -m, sglang_router.launch_router]}}"
    text = (EXAMPLES / "sglang-nodes.yaml").read_text().replace("slurm: {}", router)
    text = text.replace("  dp_size: 8\n  enable_dp_attention: true\n", "")
    assert up(text.replace("0.0.0.0", "localhost"), "--backend", backend).texts() == (expected, expected)
