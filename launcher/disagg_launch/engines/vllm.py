"""vLLM: `vllm serve` workers that hand the KV cache over by a connector, and vllm-router as a front door.

An instance on one node is one process. On several nodes one process per node meets the others at an address and port of the plan; with
`engine.rendezvous: ray` the nodes run `ray symmetric-run` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from disagg_launch import files as run_files
from disagg_launch.engines import flags, ports, process_rules, rust_router, startup
from disagg_launch.latebound import json_text
from disagg_launch.launch import INSTANCE, NODE, Ref, Router, Text, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, shape

if TYPE_CHECKING:
    from disagg_launch.spec import Complaint, Spec

NAME = "vllm"
WIRE = "vllm"
JOINS = ""
KNOWN_KEYS = flags.known(NAME)
KNOWN_AS = flags.known_as(NAME)
KV_TRANSFER = "kv_transfer_config"
NIXL, P2P_NCCL, MOONCAKE = "NixlConnector", "P2pNcclConnector", "MooncakeConnector"
NIXLS = (NIXL, "NixlPullConnector", "NixlPushConnector")
# It runs the command where the address is one of the machine's own, and stops every Ray of the machine at its end.
APART = "`ray symmetric-run` (engine.rendezvous: ray) tells nodes apart by their machines' addresses"
# What vLLM's own launcher would take for a world of its own; and a host MPI's UCX_TLS=tcp keeps NIXL from registering GPU memory.
UNSET = ("OMPI_*", "PMIX_*", "PMI_*", "PRTE_*", "HYDRA_*", "UCX_TLS")


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """`vllm serve` once per node of the instance; every node but the first is headless."""
    argv, spans = serve_argv(spec, plan, instance), len(instance.nodes) > 1
    followers: tuple[Text, ...] = ()
    through_ray = spans and spec.engine.rendezvous == "ray"
    if through_ray:
        argv = (*symmetric_run(plan, instance), *argv, "--distributed-executor-backend", "ray")
    elif spans:
        argv = (*argv, *meeting(spec, plan, instance))
        followers = ("--headless",)
    environ = side_channel(spec, plan, instance)
    if startup.is_raised(spec):
        # it gives its own processes 600 s
        environ["VLLM_ENGINE_READY_TIMEOUT_S"] = str(round(spec.readiness.limit_s))
    if spans:
        # on a node with several networks it would guess
        environ["VLLM_HOST_IP"] = (Ref("address"),)
    if through_ray:
        # its own 30 s are too short for nodes that do not start at the same moment
        environ["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"] = str(round(spec.readiness.limit_s))
    return Worker(
        instance.name,
        argv,
        environ,
        unset=UNSET,
        tasks=NODE if spans else INSTANCE,
        visible=NODE,
        followers=followers,
        apart=APART if through_ray else "",
        needs=(program(spec),) if through_ray else (),
        # other connectors read out of every request with whom they share it
        answers_at="/v1/completions" if process_rules.connector(spec, instance.role) in NIXLS else "",
    )


def serve_argv(spec: Spec, plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """`vllm serve MODEL ...` without what several nodes need."""
    section = spec.section(instance.role)
    tp, pp = shape(plan, instance.name)
    argv: list[Text] = [program(spec), "serve", section.model or spec.model or "", "--host", (Ref("host"),)]
    argv += ["--port", (Ref("port"),), "--tensor-parallel-size", str(tp)]
    for flag, size in (
        ("--pipeline-parallel-size", pp),
        ("--data-parallel-size", section.data_parallel_size),
        ("--prefill-context-parallel-size", section.context_parallel_size),
    ):
        argv += [flag, str(size)] if size > 1 else []
    argv += ["--kv-transfer-config", json_text(kv_transfer(spec, plan, instance))]
    own = {k: v for k, v in section.engine_keys.items() if k != KV_TRANSFER}
    return (*argv, *flags.words(own, negative="no-"), *spec.engine.args)


def program(spec: Spec) -> str:
    """vllm."""
    return spec.engine.program or "vllm"


def kv_transfer(spec: Spec, plan: Plan, instance: Instance) -> dict[str, Any]:
    """--kv-transfer-config: the section's own keys over what the connector needs for the role."""
    given = spec.section(instance.role).engine_keys.get(KV_TRANSFER)
    keys = dict(given) if isinstance(given, Mapping) else {}
    name = keys.pop("kv_connector", NIXL)
    role = "kv_producer" if instance.role == CONTEXT else "kv_consumer"
    made: dict[str, Any] = {"kv_connector": name, "kv_role": "kv_both" if name in NIXLS else role}
    if name == P2P_NCCL:
        made["kv_port"] = ports.kv(plan, instance)
    return {**made, **keys}


def side_channel(spec: Spec, plan: Plan, instance: Instance) -> dict[str, Text]:
    """Where the connector listens: by default every instance of a node would take the same port, on an address that only it can reach."""
    name = process_rules.connector(spec, instance.role)
    port = (ports.kv(plan, instance),)
    if name == MOONCAKE:
        return {"VLLM_MOONCAKE_BOOTSTRAP_PORT": port}
    if name in NIXLS:
        # its own node's: data-parallel ranks listen where they are
        return {"VLLM_NIXL_SIDE_CHANNEL_HOST": (Ref("address"),), "VLLM_NIXL_SIDE_CHANNEL_PORT": port}
    return {}


def meeting(spec: Spec, plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """Where the nodes of one instance meet, without Ray."""
    address, port = (Ref("host", instance.name),), (ports.rendezvous(plan, instance),)
    words: tuple[Text, ...] = ("--nnodes", str(len(instance.nodes)), "--node-rank", (Ref("node_rank"),))
    words += ("--master-addr", address, "--master-port", port)
    if spec.section(instance.role).data_parallel_size > 1:
        words += ("--data-parallel-address", address, "--data-parallel-rpc-port", (ports.rendezvous(plan, instance, 1),))
    return words


def symmetric_run(plan: Plan, instance: Instance) -> tuple[Text, ...]:
    """`ray symmetric-run ... --`: the same words on every node; Ray runs what follows on the first one once all are there."""
    address = (Ref("host", instance.name), ":", ports.rendezvous(plan, instance))
    per_node = str(instance.size // len(instance.nodes))
    return ("ray", "symmetric-run", "--address", address, "--min-nodes", str(len(instance.nodes)), "--num-gpus", per_node, "--")


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """None: everything is on the command line."""
    return {}


def router(spec: Spec, plan: Plan) -> tuple[Router, Mapping[str, Text]]:
    """vllm-router in its prefill/decode mode."""
    return rust_router.vllm(spec, plan), {}


def prepare(spec: Spec) -> tuple[run_files.File, ...]:
    """Nothing has to be made beforehand."""
    return ()


def check(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """What vLLM cannot do, each at its line."""
    return process_rules.vllm(spec, plan)
