"""The command line and worker YAML of `trtllm-serve`, in whose spelling the embedded engine is started too.

Source of the flags and keys: TensorRT-LLM's `trtllm-serve serve` and its `--config` file, which overrides the flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from disagg_launch.discovery.planned import cluster
from disagg_launch.latebound import yaml_text
from disagg_launch.launch import Ref, Text
from disagg_launch.plan import CONTEXT, PREFIX, Instance, Plan, shape

if TYPE_CHECKING:
    from disagg_launch.spec import Spec


def config_path(role: str) -> str:
    """Where the worker YAML of a role lies in the run folder."""
    return f"configs/{PREFIX[role]}.yaml"


def serve_argv(program: Sequence[str], spec: Spec, plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """`program MODEL --host .. --port .. --tp_size .. --pp_size .. --server_role .. --config ..` of one instance."""
    section = spec.section(instance.role)
    tp, pp = shape(plan, instance.name)
    argv: list[Text] = [*program, section.model or spec.model or "", "--host", (Ref("host"),), "--port", (Ref("port"),)]
    argv += ["--tp_size", str(tp), "--pp_size", str(pp)]
    cp = instance.size // (tp * pp)
    if cp > 1:
        argv += ["--cp_size", str(cp)]
    argv += ["--server_role", instance.role.upper(), "--config", (Ref("run"), "/" + config_path(instance.role))]
    return tuple(argv)


def worker_yaml(spec: Spec, role: str) -> Text:
    """The worker YAML of a role: the section's engine keys, with the overlap scheduler off for context workers, and the cluster."""
    keys: dict[str, Any] = dict(spec.section(role).engine_keys)
    if role == CONTEXT:
        # upstream refuses context-only requests while the overlap scheduler is on
        keys["disable_overlap_scheduler"] = True
    if found := cluster(spec):
        keys["disagg_cluster"] = found
    return yaml_text(keys)
