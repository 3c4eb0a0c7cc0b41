"""srt-slurm recipes: the older layout (resources, backend) and `schema: 2` (engine, roles). One converter, two tables of paths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from disagg_launch.importers import sbatch
from disagg_launch.importers.draft import Draft
from disagg_launch.spec.complaint import Path, found, listed
from disagg_launch.spec.load import ROUTER_KEYS

DEFAULT_ENGINE = "sglang"  # of the older layout
ENGINES = ("trtllm", "sglang", "vllm")
SIDES = (("prefill", "context_servers"), ("decode", "generation_servers"))
# how engines spell what has one name here; underscores for dashes
SIZES = {
    "tensor_parallel_size": ("tensor_parallel_size", "tp_size", "tp"),
    "pipeline_parallel_size": ("pipeline_parallel_size", "pp_size", "pp"),
    "context_parallel_size": ("context_parallel_size", "cp_size"),
    "data_parallel_size": ("data_parallel_size", "dp_size", "dp"),
}
FRONT_DOORS = {"trtllm_serve": "trtllm", "sglang-router": "sglang", "vllm-router": "vllm"}
REASONS: dict[Path, str] = {
    ("benchmark",): "disagg-launch serves and does not measure",
    ("profiling",): "wrap engine.program for nsys",
    ("dynamo",): "the builtin front door takes Dynamo's place",
    ("infra",): "no etcd or NATS is needed",
    ("services",): "start further programs beside the deployment",
    ("setup_script",): "do it in the image",
    ("model", "precision"): "informational; the checkpoint says it",
    ("resources", "gpu_type"): "informational; slurm.constraint or slurm.gpu_type ask for it",
    ("frontend", "enable_multiple_frontends"): "there is one front door",
    ("frontend", "num_additional_frontends"): "there is one front door",
    ("frontend", "args"): "options of a front door that is not used",
    ("output",): "logs lie in the run folder",
}


@dataclass(frozen=True)
class Layout:
    """Where a recipe's layout keeps things; in `role` paths "{role}" stands for prefill or decode."""

    kind: str
    engine: Path
    role: dict[str, Path]

    def of(self, what: str, role: str) -> Path:
        """The path of something of a role."""
        return tuple(str(part).replace("{role}", role) for part in self.role[what])


def layout(draft: Draft) -> Layout:
    """The layout of a recipe. BadTopology if it names no engine that there is a counterpart for."""
    second = draft.peek(("schema",)) == 2
    engine = draft.peek(("engine" if second else "backend",))
    name = engine.get("type", "" if second else DEFAULT_ENGINE) if isinstance(engine, dict) else engine
    if name not in ENGINES:
        draft.refuse(("engine",) if second else ("backend", "type"), f"found {found(name)}; allowed: {', '.join(ENGINES)}")
    if second:
        words = ("nodes", "workers", "gpus", "env", "args", "extra_args", "srun_options")
        return Layout(
            "srt-slurm recipe, schema 2",
            ("engine", "type") if isinstance(engine, dict) else ("engine",),
            {w: ("roles", "{role}", w) for w in words},
        )
    paths: dict[str, Path] = {
        "nodes": ("resources", "{role}_nodes"),
        "workers": ("resources", "{role}_workers"),
        "gpus": ("resources", "gpus_per_{role}"),
        "env": ("backend", "{role}_environment"),
        "args": ("backend", f"{name}_config", "{role}"),
        "extra_args": ("backend", "{role}_extra_args"),
        "srun_options": ("backend", "{role}_srun_options"),
    }
    return Layout("srt-slurm recipe", ("backend", "type"), paths)


def matches(values: dict[Any, Any]) -> bool:
    """Whether parsed values are a recipe of either layout."""
    base = values.get("base")
    older = isinstance(values.get("resources"), dict) and isinstance(values.get("backend"), dict)
    return older or (values.get("schema") == 2 and isinstance(values.get("roles"), dict)) or (isinstance(base, dict) and matches(base))


def convert(draft: Draft) -> None:
    """Fill the draft with our form. BadTopology if the recipe is not disaggregated, or its engine has no counterpart."""
    if "base" in draft.source.values:
        others = listed(str(key) for key in draft.source.values if key != "base")
        draft.refuse(("base",), f"found several recipes in one file (base and {others}); needed: a file with one, without overrides")
    where = layout(draft)
    draft.kind = where.kind
    draft.reasons.update(REASONS)
    if not any(draft.peek(where.of("args", role)) is not None or draft.peek(where.of("workers", role)) for role, _ in SIDES):
        draft.refuse(where.of("workers", "prefill")[:1], "found neither prefill nor decode workers; needed: a disaggregated recipe")
    draft.take(("schema",))
    draft.move(("name",), ("name",), _name)
    draft.move(("model", "path"), ("model",))
    draft.put(("hostname",), "0.0.0.0", "the front door is reached from other nodes")  # noqa: S104
    draft.put(("engine", "name"), draft.take(where.engine, DEFAULT_ENGINE))
    draft.origin["engine", "name"] = where.engine
    _cluster(draft, where)
    for role, section in SIDES:
        _role(draft, where, role, section)
    _front_door(draft)
    _job(draft)
    draft.environ(("environment",), ("env",))
    _patience(draft)


def _patience(draft: Draft) -> None:
    """The health check's attempts and interval as a time limit."""
    attempts, interval = ("health_check", "max_attempts"), ("health_check", "interval_seconds")
    if draft.keys(("health_check",)):
        count, seconds = draft.take(attempts, 180), draft.take(interval, 10)
        if isinstance(count, int) and isinstance(seconds, (int, float)):
            draft.put(("readiness", "limit_s"), count * seconds, f"{count} attempts, {seconds} s apart")


def _name(text: Any) -> str:
    """A name as our form allows it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in str(text)).lstrip("_.-")
    return kept[:63] or "disagg"


def _cluster(draft: Draft, where: Layout) -> None:
    draft.put(("cluster", "gpus_per_node"), draft.take(("resources", "gpus_per_node"), 4))
    counts = {role: draft.take(where.of("nodes", role)) for role, _ in SIDES}
    shared = counts["decode"] in (0, "colocate", None)
    known = [count for count in counts.values() if isinstance(count, int)]
    if known:
        draft.put(("cluster", "nodes"), sum(known), "prefill and decode nodes")
    if not shared:
        draft.put(("cluster", "policy"), "separate_roles", "the recipe gives each role nodes of its own")


def _role(draft: Draft, where: Layout, role: str, section: str) -> None:
    draft.put((section, "num_instances"), draft.take(where.of("workers", role), 1))
    args = where.of("args", role)
    spelt = {size: [k for k in draft.keys(args) if str(k).replace("-", "_") in names] for size, names in SIZES.items()}
    if draft.peek((*args, "enable-dp-attention")) or draft.peek((*args, "enable_dp_attention")):
        # attention replicas inside the TP ranks: no ranks of their own, and the engine's business alone
        for key in spelt.pop("data_parallel_size"):
            draft.move((*args, key), (section, "dp_size"))
    for size, keys in spelt.items():
        for key in keys:
            draft.move((*args, key), (section, size))
    for key in draft.keys(args):
        old, new = (*args, key), (section, str(key).replace("-", "_"))
        if new[1] == "model_path" and draft.peek(("model", "path")):
            draft.reasons[old] = "where model.path is mounted in the container; write that path as model, with slurm.container_mounts"
        elif old not in draft.taken:
            draft.put(new, draft.take(old))
            draft.origin[new] = old
    _gpus(draft, where, role, section)
    draft.environ(where.of("env", role), (section, "env"))


def _gpus(draft: Draft, where: Layout, role: str, section: str) -> None:
    """GPUs per worker: said by the sizes already, or the tensor parallel size if there is none."""
    old, there = where.of("gpus", role), draft.values[section]
    sizes = [there.get(size, 1) for size in SIZES]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return
    product, gpus = math.prod(sizes), draft.peek(old)
    if gpus is None and "tensor_parallel_size" not in there:
        nodes, workers, per_node = draft.peek(where.of("nodes", role)), there["num_instances"], draft.values["cluster"]["gpus_per_node"]
        whole = (
            all(isinstance(number, int) and number > 0 for number in (nodes, workers, per_node)) and nodes * per_node // workers // product
        )
        if whole:
            draft.put((section, "tensor_parallel_size"), whole, "the role's GPUs shared by its workers")
    elif gpus == product:
        draft.take(old)
    elif isinstance(gpus, int) and "tensor_parallel_size" not in there and gpus % product == 0:
        draft.move(old, (section, "tensor_parallel_size"), lambda value: value // product)
    else:
        draft.reasons[old] = f"TP x PP x CP x DP is {product}"


def _front_door(draft: Draft) -> None:
    kind = draft.take(("frontend", "type"), "dynamo")
    if kind == "sglang" and "schema" not in draft.source.values:
        kind = "sglang-router"
    name = FRONT_DOORS.get(str(kind), "builtin")
    draft.put(("router", "name"), name, "" if str(kind) in FRONT_DOORS else f"in place of {kind}")
    draft.environ(("frontend", "env"), ("router", "env"))
    if name in ("sglang", "vllm"):
        draft.move(("frontend", "args"), ("router", "options"))
    draft.move(("frontend", "ctx_router"), ("context_servers", "router"))
    draft.move(("frontend", "gen_router"), ("generation_servers", "router"))
    for key in ROUTER_KEYS:
        draft.move(("frontend", "server_config_extra", key), (key,))


def _job(draft: Draft) -> None:
    for old, new in (("account", "account"), ("partition", "partition"), ("time_limit", "time")):
        draft.move(("slurm", old), ("slurm", new))
    if draft.peek(("model", "container")):
        draft.move(("model", "container"), ("slurm", "container_image"))
        draft.put(("slurm", "container"), "pyxis", "srt-slurm knows no other")
    if options := draft.keys(("sbatch_directives",)):
        texts = draft.source.texts
        sbatch.take(draft, ("sbatch_directives",), ((str(name), texts.get(("sbatch_directives", name), "")) for name in options))
    if draft.keys(("srun_options",)):
        draft.move(("srun_options",), ("slurm", "srun_args"), _options)
    mounts = [f"{host}:{draft.take(('container_mounts', host))}" for host in draft.keys(("container_mounts",))]
    extra = draft.peek(("extra_mount",))
    if isinstance(extra, list):
        mounts += draft.take(("extra_mount",))
    if mounts:
        draft.put(("slurm", "container_mounts"), mounts)


def _options(options: Any) -> list[str]:
    """A map of long options as words; one without a value is a switch."""
    return [f"--{name}={value}" if value not in ("", None, True) else f"--{name}" for name, value in options.items()]
