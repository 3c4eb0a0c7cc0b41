"""TensorRT-LLM's Slurm benchmark configuration (examples/disaggregated/slurm/benchmark/config.yaml)."""

from __future__ import annotations

import shlex
from typing import Any

from disagg_launch.importers import sbatch
from disagg_launch.importers.draft import Draft
from disagg_launch.spec.complaint import Path, found

KIND = "TensorRT-LLM Slurm benchmark config"
SIDES = (("ctx", "context_servers"), ("gen", "generation_servers"))
MOVES: tuple[tuple[Path, Path], ...] = (
    (("environment", "model_path"), ("model",)),
    (("hardware", "gpus_per_node"), ("cluster", "gpus_per_node")),
    (("slurm", "account"), ("slurm", "account")),
    (("slurm", "partition"), ("slurm", "partition")),
    (("slurm", "job_time"), ("slurm", "time")),
    (("slurm", "job_name"), ("slurm", "job_name")),
    (("slurm", "numa_bind"), ("slurm", "numa_bind")),
    (("environment", "container_image"), ("slurm", "container_image")),
)
REASONS: dict[Path, str] = {
    ("slurm", "script_file"): "the job script is rendered",
    ("slurm", "set_segment"): "write slurm.segment with the number of nodes that `plan` shows",
    ("benchmark",): "disagg-launch serves and does not measure",
    ("profiling",): "wrap engine.program for nsys",
    ("accuracy",): "run lm_eval against the front door",
    ("environment", "work_dir"): "the run folder is chosen with --run",
    ("environment", "log_dir"): "logs lie in the run folder",
    ("environment",): "the image has to hold TensorRT-LLM",
}


def matches(values: dict[Any, Any]) -> bool:
    """Whether parsed values are of this kind."""
    return isinstance(values.get("worker_config"), dict) and isinstance(values.get("hardware"), dict)


def convert(draft: Draft) -> None:
    """Fill the draft with our form."""
    draft.reasons.update(REASONS)
    draft.move(("environment", "model_path"), ("model",))
    draft.put(("hostname",), "0.0.0.0", "the scripts serve on the node's own name")  # noqa: S104
    draft.put(("port",), 8333, "fixed in the scripts")
    draft.put(("engine", "name"), "trtllm")
    for old, new in MOVES:
        draft.move(old, new)
    _extra_args(draft, ("slurm", "extra_args"))
    draft.move(("environment", "container_mount"), ("slurm", "container_mounts"), lambda mounts: str(mounts).split(","))
    draft.put(("slurm", "mpi"), "pmix", "fixed in the scripts")
    draft.put(("slurm", "container"), "pyxis", "fixed in the scripts")
    draft.put(("readiness", "limit_s"), 1800, "fixed in the scripts")
    draft.move(("environment", "worker_env_var"), ("env",), variables)
    draft.move(("environment", "server_env_var"), ("router", "env"), variables)
    for short, section in SIDES:
        draft.move(("hardware", f"num_{short}_servers"), (section, "num_instances"))
        for key in draft.keys(("worker_config", short)):
            old = ("worker_config", short, key)
            # null means something to the engine: it switches a feature off
            draft.put((section, key), draft.take(old))
            draft.origin[section, key] = old
        draft.move(("environment", f"{short}_worker_env_var"), (section, "env"), variables)


def _extra_args(draft: Draft, old: Path) -> None:
    """The words of sbatch options; a complaint if they cannot be told apart."""
    try:
        words = shlex.split(str(draft.peek(old, "")))
    except ValueError as wrong:
        draft.wrong.append(draft.source.complaint(old, f"found {found(draft.peek(old))}; allowed: words that a shell can split ({wrong})"))
        words = []
    if not words:
        return
    if all(word.startswith("--") for word in words):
        sbatch.take(draft, old, ((name[2:], value) for name, _, value in (word.partition("=") for word in words)))
    else:
        draft.move(old, ("slurm", "extra_args"), shlex.split)


def variables(text: Any) -> dict[str, str]:
    """K=V words as a map; a word without "=" becomes a variable without a value."""
    pairs = (word.partition("=") for word in shlex.split(str(text)))
    return {name: value for name, _, value in pairs}
