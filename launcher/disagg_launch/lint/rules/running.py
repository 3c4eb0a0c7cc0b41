"""DL04x: time-outs, containers and environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from disagg_launch.engines import startup
from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, rule

# What a large engine needs besides reading weights: imports, graph capture, JIT warm-up (370 s were seen on B200).
START_S = 120.0
BYTES_PER_S = 1e9
SPEAKS = {"sglang": ("sglang",), "vllm": ("vllm",), "trtllm": ("trtllm", "reference")}


@rule(
    "DL040",
    WARNING,
    "The time to become ready is shorter than the model's likely load time",
    why="The deployment is given up while it is still loading.",
    fix="Raise `readiness.limit_s`.",
    source="TensorRT-LLM pull/18372, pull/18012: 180 and 300 s were too short. Reckoned here: 120 s and the weights at 1 GB/s",
)
def load_time(case: Case) -> Iterator[Finding]:
    if case.spec.external or case.spec.engine.name in ("reference", "command"):
        return
    limit_s = startup.limit(case.spec, case.node_count(), case.weights).limit_s
    for key, section in case.sides():
        likely_s = START_S + case.weights(section.model or "") / BYTES_PER_S
        if limit_s < likely_s:
            yield ("readiness", "limit_s"), f"found {limit_s:g} s; {key} is likely to need {likely_s:.0f} s"


def minutes(time: str) -> float:
    """Slurm's time limit in minutes; infinity if it is none or not readable here."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if match is None:
        return float("inf")
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1]:
        return days * 1440 + first * 60 + second + third / 60
    return first * 60 + second + third / 60 if match[4] else first + second / 60


@rule(
    "DL041",
    WARNING,
    "The job's time limit ends before the deployment has to be ready",
    why="The job may be ended by Slurm while it is still loading.",
    fix="Raise `slurm.time` or lower `readiness.limit_s`.",
    source="Slurm, --time: minutes, MM:SS, H:MM:SS, D-H, D-H:MM, D-H:MM:SS",
)
def time_limit(case: Case) -> Iterator[Finding]:
    limit, ready = case.spec.slurm.time, startup.limit(case.spec, case.node_count(), case.weights)
    if limit and minutes(limit) * 60 < ready.limit_s:
        yield ("slurm", "time"), f"found {limit}; readiness.limit_s is {ready.limit_s:g} s: {ready.why}"


@rule(
    "DL042",
    WARNING,
    "A named container is reused",
    why="Steps on a node enter the same container: what one leaves there the next one meets, and variables with commas get lost.",
    fix="Leave `slurm.container_name` out, so that each step has its own container.",
    source="TensorRT-LLM pull/12370: CUDA_VISIBLE_DEVICES lost in a shared pyxis container",
)
def container_reused(case: Case) -> Iterator[Finding]:
    count = sum(section.num_instances for _, section in case.sides())
    if case.spec.slurm.container_name and count > 1:
        yield ("slurm", "container_name"), f"found {case.spec.slurm.container_name!r} for {count} instances"


@rule(
    "DL043",
    WARNING,
    "The environment fixes UCX_TLS",
    why="With UCX_TLS=tcp NIXL cannot register GPU memory; a list without cuda transports makes transfers slow.",
    fix="Leave UCX_TLS out, or include cuda_copy and cuda_ipc.",
    source="TensorRT-LLM pull/18373; its own worker script unsets it",
)
def ucx_transports(case: Case) -> Iterator[Finding]:
    for key, section in case.sides():
        transports = section.env.get("UCX_TLS")
        if transports is not None and "cuda" not in transports and transports != "all":
            inside = "UCX_TLS" in (case.spec.source.value(key, "env") or {})
            yield ((key, "env", "UCX_TLS") if inside else ("env", "UCX_TLS")), f"found {transports}, which has no cuda transport"


@rule(
    "DL044",
    ERROR,
    "The front door does not speak the engine's protocol",
    why="Requests for the two roles are written differently for each engine.",
    fix="Use `router: {name: builtin}`, or the engine's own router.",
    source="TensorRT-LLM, vllm-router and sglang-router documentation",
)
def router_speaks(case: Case) -> Iterator[Finding]:
    router, engine = case.spec.router.name, case.spec.engine.name
    if not case.spec.external and router in SPEAKS and engine not in (*SPEAKS[router], "command"):
        yield ("router", "name"), f"found {router} with engine {engine}; needed: builtin or a router for {engine}"


@rule(
    "DL045",
    WARNING,
    "Requests get longer to finish than the job has left",
    why="Slurm ends the job in the middle of draining.",
    fix="Make `slurm.signal_s` larger than `slurm.drain_s` plus twice `restart.grace_s` (of the front door, then of the workers).",
    source="Slurm, --signal: may come up to 60 s early, never late",
)
def drain_fits(case: Case) -> Iterator[Finding]:
    slurm, needed = case.spec.slurm, case.spec.slurm.drain_s + 2 * case.spec.restart.grace_s
    if "slurm" in case.spec.source.values and slurm.signal_s < needed:
        yield ("slurm", "signal_s"), f"found {slurm.signal_s} s; draining and stopping may take {needed:g} s"
