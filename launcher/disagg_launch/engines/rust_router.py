"""The command lines of sglang-router and vllm-router, which share one ancestor: prefill and decode workers by URL. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disagg_launch.engines import flags, ports
from disagg_launch.engines.process_rules import OTHER_PROTOCOLS, connector
from disagg_launch.engines.servers import front_port, servers
from disagg_launch.launch import Ref, Router, Text
from disagg_launch.plan import CONTEXT, GENERATION, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

# Our policies -> theirs; a name that is not here is passed on as it is.
POLICIES = {"load_balancing": "power_of_two", "kv_cache_aware": "cache_aware"}


def sglang(spec: Spec, plan: Plan) -> Router:
    """`python3 -m sglang_router.launch_router --pd-disaggregation ...`; each prefill URL is followed by its bootstrap port."""
    bootstrap = {i.name: (ports.bootstrap(plan, i),) for i in plan.instances if i.role == CONTEXT}
    argv: list[Text] = ["--pd-disaggregation"]
    for one in servers(spec, plan, CONTEXT):
        argv += ["--prefill", ("http://", one), *([bootstrap[one.of]] if isinstance(one, Ref) else [])]
    # its /health answers 200 before it has looked at one worker
    return _router(spec, plan, ("python3", "-m", "sglang_router.launch_router"), argv, "/readiness")


def vllm(spec: Spec, plan: Plan) -> Router:
    """`vllm-router --vllm-pd-disaggregation ...`; Mooncake's prefill URLs are followed by their bootstrap port."""
    protocol = OTHER_PROTOCOLS.get(connector(spec, CONTEXT))
    argv: list[Text] = ["--vllm-pd-disaggregation", *(["--kv-connector", protocol] if protocol else [])]
    ask = {i.name: (ports.kv(plan, i),) for i in plan.instances} if protocol == "mooncake" else {}
    for one in servers(spec, plan, CONTEXT):
        argv += ["--prefill", ("http://", one), *([ask[one.of]] if isinstance(one, Ref) and one.of in ask else [])]
    return _router(spec, plan, ("vllm-router",), argv, "/health")


def _policy(spec: Spec, plan: Plan, role: str) -> str:
    kind = str(spec.section(role).router.get("type", "round_robin"))
    # with one server there is nothing to choose, and power_of_two refuses to start
    return POLICIES.get(kind, kind) if len(servers(spec, plan, role)) > 1 else "round_robin"


# said unless the file says otherwise: their own default of 30 s between two looks at a worker would be added to every start
OPTIONS = {"worker_startup_check_interval": 1}


def _router(spec: Spec, plan: Plan, program: tuple[str, ...], argv: list[Text], health: str) -> Router:
    for one in servers(spec, plan, GENERATION):
        argv += ["--decode", ("http://", one)]
    for flag, role in (("--prefill-policy", CONTEXT), ("--decode-policy", GENERATION)):
        argv += [flag, _policy(spec, plan, role)]
    # both parse an address, not a name
    host = "127.0.0.1" if spec.hostname == "localhost" else spec.hostname
    start: list[Text] = [*(spec.router.command or program), "--host", host, "--port", (front_port(spec.port),)]
    metrics: Text = f":{spec.router.options.get('prometheus_port')}/metrics"
    if "prometheus_port" not in spec.router.options:
        # their own is one fixed number, on which a second deployment of this machine would fail to start
        argv += ["--prometheus-port", (front_port(spec.port - 1),)]
        metrics = (":", front_port(spec.port - 1), "/metrics")
    words = (*start, *argv, *flags.words({**OPTIONS, **spec.router.options}))
    return Router(words, dict(spec.router.env), host, spec.port, spec.router.health or health, metrics=metrics)
