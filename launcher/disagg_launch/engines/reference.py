"""The embedded engine: a real small model on the CPU, tensor and pipeline parallel over MPI ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disagg_launch.discovery.planned import METADATA_CONFIG, metadata_config
from disagg_launch.engines.serve_command import config_path, serve_argv, worker_yaml
from disagg_launch.latebound import yaml_text
from disagg_launch.launch import RANK, Ref, Text, Worker
from disagg_launch.plan import CONTEXT, GENERATION, Instance, Plan

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Complaint, Spec

NAME = "reference"
WIRE = "trtllm"
JOINS = "itself"
KNOWN_AS = NAME
KNOWN_KEYS = frozenset(
    {
        "backend",
        "cache_transceiver_config",
        "disable_overlap_scheduler",
        "kv_cache_config",
        "max_batch_size",
        "max_num_tokens",
        "max_seq_len",
    }
)


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """One process per rank; ranks of one instance meet in one communicator, so a bigger instance runs in process."""
    argv = serve_argv((spec.engine.python or "python3", "-m", "disagg_launch.reference"), spec, plan, instance)
    if spec.engine.metadata_server:
        argv = (*argv, "--metadata_server_config_file", (Ref("run"), "/" + METADATA_CONFIG))
    return Worker(
        instance=instance.name,
        argv=argv,
        # one BLAS thread per rank: several ranks share the cores of a laptop
        environ={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        tasks=RANK,
        gpus=False,
        in_process="disagg_launch.reference.serve:run",
        stacks="SIGUSR2",
        answers_at="/health_generate",
    )


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """The two worker YAML files, and the metadata server's."""
    out = {config_path(role): worker_yaml(spec, role) for role in (CONTEXT, GENERATION)}
    if spec.engine.metadata_server:
        out[METADATA_CONFIG] = yaml_text(metadata_config(spec))
    return out


def prepare(spec: Spec) -> tuple[File, ...]:
    """Nothing has to be made beforehand."""
    return ()


def check(spec: Spec, plan: Plan) -> tuple[Complaint, ...]:
    """Nothing beyond what lint says."""
    return ()
