"""TensorRT-LLM: `trtllm-serve` workers in each of their launch forms, and `trtllm-serve disaggregated` as a front door.

| engine.launch | who starts what | for |
|---|---|---|
| serve | one process per instance, which starts its ranks itself (MPI spawn) | one node, no Slurm |
| llmapi-launch | one task per rank under `trtllm-llmapi-launch`, nothing is spawned | Slurm, several nodes |
| mpi-worker | one MPI world over all instances, `disaggregated_mpi_worker` (deprecated upstream) | old recipes |
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from disagg_launch import files as run_files
from disagg_launch import templating
from disagg_launch.engines import flags, ports, trtllm_files
from disagg_launch.engines.serve_command import config_path
from disagg_launch.errors import BadInput
from disagg_launch.latebound import yaml_text
from disagg_launch.launch import INSTANCE, NODE, RANK, Ref, Router, Text, Worker
from disagg_launch.plan import CONTEXT, GENERATION, PREFIX, Instance, Plan, shape

if TYPE_CHECKING:
    from disagg_launch.spec import Complaint, Spec

NAME = "trtllm"
WIRE = "trtllm"
JOINS = "openly"
KNOWN_AS = NAME
KNOWN_KEYS = frozenset(flags.table(NAME)["keys"])
ANSWERS_AT = "/health_generate"
SERVE, LLMAPI_LAUNCH, MPI_WORKER = "serve", "llmapi-launch", "mpi-worker"

# A process that MPI-spawns its own ranks must not believe that it is a task of the launcher around it.
LAUNCHER_VARIABLES = ("OMPI_*", "PMIX_*", "PMI_*", "PRTE_*", "SLURM_*", "HYDRA_*", "MPICH_*", "I_MPI_*")
# A host MPI's UCX_TLS=tcp keeps NIXL from registering GPU memory; who wants it sets it in `env`.
ALWAYS_UNSET = ("UCX_TLS",)


def launch_form(spec: Spec, plan: Plan) -> str:
    """engine.launch, or what suits: llmapi-launch under Slurm or when an instance spans nodes, else serve."""
    if spec.engine.launch:
        return spec.engine.launch
    spans = any(len(one.nodes) > 1 for one in plan.instances)
    return LLMAPI_LAUNCH if spans or "slurm" in spec.model_fields_set else SERVE


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """The command of one instance's tasks in the chosen launch form. BadInput for what TensorRT-LLM cannot do."""
    wrong = [str(one) for one in check(spec, plan) if one.severity == "error"]
    if wrong:
        raise BadInput("\n".join(wrong))
    form = launch_form(spec, plan)
    environ: dict[str, Text] = {}
    argv: tuple[Text, ...]
    if _transceiver(spec, instance.role).get("backend") == "MPI":
        environ["TRTLLM_USE_MPI_KVCACHE"] = "1"
    if form == SERVE:
        unset = LAUNCHER_VARIABLES + ALWAYS_UNSET
        return Worker(instance.name, serve_argv(spec, plan, instance), environ, unset, tasks=INSTANCE, visible=NODE, answers_at=ANSWERS_AT)
    # Both forms look for SLURM_PROCID and SLURM_NTASKS, and both are wrong under an mpirun inside a Slurm job; the plan knows better.
    if form == MPI_WORKER:
        environ["SLURM_PROCID"] = (Ref("rank"),)
        argv = (program(spec), "disaggregated_mpi_worker", "-c", (Ref("run"), "/" + trtllm_files.DISAGG_CONFIG))
        return Worker(instance.name, argv, environ, ALWAYS_UNSET, tasks=RANK, visible=NODE, world="plan", answers_at=ANSWERS_AT)
    environ["SLURM_PROCID"] = (Ref("instance_rank"),)
    environ["SLURM_NTASKS"] = str(instance.size)
    environ["TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR"] = ("tcp://127.0.0.1:", ports.ipc(plan, instance))
    argv = (wrapper(spec), *serve_argv(spec, plan, instance))
    needs = (program(spec),)
    return Worker(
        instance.name, argv, environ, ALWAYS_UNSET, tasks=RANK, visible=NODE, world="instance", needs=needs, answers_at=ANSWERS_AT
    )


def serve_argv(spec: Spec, plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """`trtllm-serve MODEL ...` of one instance; sizes of 1 and a role that nobody asks for are left out, as in upstream's recipes."""
    section = spec.section(instance.role)
    tp, pp = shape(plan, instance.name)
    argv: list[Text] = [program(spec), section.model or spec.model or ""]
    for flag, size in (("--tp_size", tp), ("--pp_size", pp), ("--cp_size", instance.size // (tp * pp))):
        argv += [flag, str(size)] if size > 1 else []
    argv += ["--host", (Ref("host"),), "--port", (Ref("port"),)]
    if spec.engine.metadata_server or spec.disagg_cluster:
        argv += ["--server_role", instance.role.upper()]
    argv += ["--extra_llm_api_options", (Ref("run"), "/" + config_path(instance.role))]
    if spec.engine.metadata_server:
        argv += ["--metadata_server_config_file", (Ref("run"), "/" + trtllm_files.METADATA_CONFIG)]
    own = {k: v for k, v in section.engine_keys.items() if k in trtllm_files.FLAG_KEYS and (k, v) != ("backend", trtllm_files.PYTORCH)}
    return (*argv, *flags.words(own, dash="_"), *spec.engine.args)


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """Worker YAML of both roles, and the metadata server's file; the single MPI world reads disagg_config.yaml instead."""
    out: dict[str, Text] = {}
    if launch_form(spec, plan) == MPI_WORKER:
        return {trtllm_files.DISAGG_CONFIG: yaml_text(trtllm_files.mpi_config(spec, plan))}
    for role in (CONTEXT, GENERATION):
        if spec.section(role).num_instances:
            out[config_path(role)] = yaml_text(trtllm_files.worker_args(spec, role))
    if spec.engine.metadata_server:
        out[trtllm_files.METADATA_CONFIG] = yaml_text(trtllm_files.metadata_config(spec))
    return out


def router(spec: Spec, plan: Plan) -> tuple[Router, Mapping[str, Text]]:
    """`trtllm-serve disaggregated -c disagg_config.yaml`, under the wrapper where the workers are, as upstream's recipes have it."""
    wrapped = spec.engine.name == NAME and launch_form(spec, plan) == LLMAPI_LAUNCH
    own = spec.router.command or ((wrapper(spec), program(spec)) if wrapped else (program(spec),))
    argv: list[Text] = [*own, "disaggregated", "-c", (Ref("run"), "/" + trtllm_files.DISAGG_CONFIG)]
    made: dict[str, Text] = {trtllm_files.DISAGG_CONFIG: yaml_text(trtllm_files.disagg_config(spec, plan))}
    if spec.engine.name == NAME and launch_form(spec, plan) == MPI_WORKER:
        made = {}  # the workers' own file names the servers too
    if spec.engine.metadata_server:
        argv += ["-m", (Ref("run"), "/" + trtllm_files.METADATA_CONFIG)]
        made[trtllm_files.METADATA_CONFIG] = yaml_text(trtllm_files.metadata_config(spec))
    if "limit_s" in spec.readiness.model_fields_set:
        # written, or reckoned from the model's size: its own 180 s may be too short
        argv += ["-t", str(round(spec.readiness.limit_s))]
    # on the batch host these would count the whole job's tasks
    environ: dict[str, Text] = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"} if wrapped else {}
    environ.update(spec.router.env)
    # a worker registers before its port accepts, and tries until it is taken
    early = bool(spec.disagg_cluster and not spec.disagg_cluster.cluster_uri.startswith("etcd://"))
    health = spec.router.health or "/health"
    return Router(tuple(argv), environ, spec.hostname, spec.port, health, early=early, metrics="/prometheus/metrics"), made


def prepare(spec: Spec) -> tuple[run_files.File, ...]:
    """Scripts to be run once, before the first start: the quantisation of a mixed-precision deployment."""
    wish = spec.engine.quantize
    if wish is None:
        return ()
    text = templating.render("trtllm/quantize.sh.j2", wish=wish, export=spec.section(wish.role).model)
    return (run_files.File(f"prepare/quantize-{PREFIX[wish.role]}.sh", text, run_files.RUNNABLE),)


def check(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """What TensorRT-LLM cannot do, and what was added or is deprecated, each at its line."""
    from disagg_launch.engines import trtllm_rules

    return trtllm_rules.complaints(spec, plan, launch_form(spec, plan))


def program(spec: Spec) -> str:
    """trtllm-serve."""
    return (spec.engine.program if spec.engine.name == NAME else None) or "trtllm-serve"


def wrapper(spec: Spec) -> str:
    """trtllm-llmapi-launch, from the folder of trtllm-serve if that was given with one."""
    return posixpath.join(posixpath.dirname(program(spec)), "trtllm-llmapi-launch")


def _transceiver(spec: Spec, role: str) -> Mapping[str, object]:
    found = spec.section(role).engine_keys.get(trtllm_files.TRANSCEIVER)
    return found if isinstance(found, Mapping) else {}
