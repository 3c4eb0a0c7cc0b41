"""SGLang: `sglang serve` workers in prefill and decode mode, and sglang-router as a front door.

One process per node of an instance; they meet at an address and port of the plan. A prefill instance's bootstrap port is fixed
in the plan too, because the router has to name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from disagg_launch import files as run_files
from disagg_launch.engines import flags, ports, rust_router
from disagg_launch.launch import INSTANCE, NODE, Ref, Router, Text, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, shape

if TYPE_CHECKING:
    from disagg_launch.spec import Complaint, Spec

NAME = "sglang"
WIRE = "sglang"
JOINS = ""
KNOWN_KEYS = flags.known(NAME)
KNOWN_AS = flags.known_as(NAME)
BACKEND = "disaggregation_transfer_backend"
DEFAULT_BACKEND = "nixl"
# It starts processes of its own; and a host MPI's UCX_TLS=tcp keeps NIXL from registering GPU memory.
UNSET = ("OMPI_*", "PMIX_*", "PMI_*", "PRTE_*", "HYDRA_*", "UCX_TLS")


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """`sglang serve` once per node of the instance; nodes but the first serve no HTTP by themselves."""
    spans = len(instance.nodes) > 1
    argv = serve_argv(spec, plan, instance)
    if spans:
        address = (Ref("host", instance.name), ":", ports.rendezvous(plan, instance))
        argv += ("--dist-init-addr", address, "--nnodes", str(len(instance.nodes)), "--node-rank", (Ref("node_rank"),))
    tasks = NODE if spans else INSTANCE
    return Worker(instance.name, argv, unset=UNSET, tasks=tasks, visible=NODE, answers_at="/health_generate")


def serve_argv(spec: Spec, plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """`sglang serve --model-path MODEL ...` without what several nodes need."""
    section = spec.section(instance.role)
    tp, pp = shape(plan, instance.name)
    argv: list[Text] = [spec.engine.program or "sglang", "serve", "--model-path", section.model or spec.model or ""]
    # its own node's: also a node that serves no requests listens, for health checks
    argv += ["--host", (Ref("address"),), "--port", (Ref("port"),), "--tp-size", str(tp)]
    for flag, size in (("--pp-size", pp), ("--dp-size", section.data_parallel_size)):
        argv += [flag, str(size)] if size > 1 else []
    argv += ["--disaggregation-mode", "prefill" if instance.role == CONTEXT else "decode"]
    if instance.role == CONTEXT:
        argv += ["--disaggregation-bootstrap-port", (ports.bootstrap(plan, instance),)]
    return (*argv, *flags.words({BACKEND: DEFAULT_BACKEND, **section.engine_keys}), *spec.engine.args)


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """None: everything is on the command line."""
    return {}


def router(spec: Spec, plan: Plan) -> tuple[Router, Mapping[str, Text]]:
    """sglang-router in its prefill/decode mode."""
    return rust_router.sglang(spec, plan), {}


def prepare(spec: Spec) -> tuple[run_files.File, ...]:
    """Nothing has to be made beforehand."""
    return ()


def check(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """What SGLang cannot do, each at its line."""
    from disagg_launch.engines import process_rules

    return process_rules.sglang(spec, plan)
