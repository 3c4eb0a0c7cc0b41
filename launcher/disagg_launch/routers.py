"""The front door by name: its command and configuration, from spec and plan. Pure.

`builtin` is ours; an engine that brings a router (`trtllm`, `vllm`, `sglang`) offers `router(spec, plan)` in its module.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from disagg_launch import engines
from disagg_launch.discovery.planned import METADATA_CONFIG, cluster, metadata_config, served
from disagg_launch.engines.command import parsed
from disagg_launch.engines.servers import front_port, inside_address, inside_port, inside_rises, servers, tls_files
from disagg_launch.latebound import yaml_text
from disagg_launch.launch import Ref, Router, Text
from disagg_launch.plan import SECTION, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

CONFIG = "configs/router.yaml"
LOOPBACK = re.compile(r"localhost$|127\.|::1$")


def router(spec: Spec, plan: Plan, python: str) -> tuple[Router, Mapping[str, Text]]:
    """The front door that the spec names, and its files by path in the run folder."""
    name = spec.router.name
    if name == "builtin":
        return _builtin(spec, plan, python)
    if name == "command":
        return _command(spec, plan), {}
    if name == "none":
        return _elsewhere(spec), {}
    made: tuple[Router, Mapping[str, Text]] = importlib.import_module(f"disagg_launch.engines.{name}").router(spec, plan)
    return replace(made[0], proves="requests"), made[1]


def _elsewhere(spec: Spec) -> Router:
    """Another run's front door; where it is cannot be told from an etcd's address."""
    uri = urlsplit(spec.disagg_cluster.cluster_uri if spec.disagg_cluster else "")
    here = uri.scheme in ("http", "https")
    return Router((), host=(uri.hostname or "") if here else "", port=(uri.port or 0) if here else 0, run=spec.router.run or "")


def config(spec: Spec, plan: Plan) -> dict[str, Any]:
    """TensorRT-LLM's disagg_config.yaml as data, with late-bound urls."""
    out: dict[str, Any] = {"hostname": spec.hostname, "port": front_port(spec.port)}
    if spec.model:
        out["model"] = spec.model
    out.update(spec.router_keys)
    if found := cluster(spec):
        out["disagg_cluster"] = found
    for role, key in SECTION.items():
        urls = servers(spec, plan, role)
        out[key] = {"num_instances": len(urls), "urls": urls}
        if spec.section(role).router:
            out[key]["router"] = dict(spec.section(role).router)
    return out


def _builtin(spec: Spec, plan: Plan, python: str) -> tuple[Router, Mapping[str, Text]]:
    engine, token = engines.load(spec.engine.name), (Ref("run"), "/state/token")
    front_door: dict[str, Any] = {"dialect": engine.WIRE, "admin_token_file": token, "run_folder": (Ref("run"), "")}
    if not LOOPBACK.match(spec.hostname):
        # the gateway then comes by the node's address, perhaps from another node; the token is what it is known by
        front_door["admin_loopback_only"] = False
    if spec.disagg_cluster and engine.JOINS != "openly":
        front_door["cluster_token_file"] = token
    tls = tls_files(spec)
    front_door |= {**spec.router.options, **tls, **({"plain_address": inside_address(spec)} if inside_rises(spec) else {})}
    files: dict[str, Text] = {CONFIG: yaml_text({**config(spec, plan), "front_door": front_door})}
    argv: tuple[Text, ...] = (python, "-m", "disagg_launch", "router", "--config", (Ref("run"), "/" + CONFIG))
    if spec.engine.metadata_server:
        files[METADATA_CONFIG] = yaml_text(metadata_config(spec))
        argv = (*argv, "--metadata_server_config_file", (Ref("run"), "/" + METADATA_CONFIG))
    made = Router(argv=argv, environ=dict(spec.router.env), host=spec.hostname, port=spec.port, health=spec.router.health or "/health")
    # a worker that registers before its port accepts tries until it is taken
    made = replace(made, proves="pairs", waits=True, early=engine.JOINS == "openly" and served(spec))
    return _with_ports(spec, made), files


def _with_ports(spec: Spec, made: Router) -> Router:
    """Our front door with what is asked where: by clients, by the launcher, by Prometheus, and by people."""
    tls, inside, rises = tls_files(spec), inside_port(spec), inside_rises(spec)
    made = replace(made, tls_cert=tls.get("tls_cert_file", ""), tls_key=tls.get("tls_key_file", ""), admin_port=inside, admin_rises=rises)
    made = replace(made, metrics=(*inside_address(spec)[1:], "/metrics") if tls else "/metrics")
    page = "/ui" if rises or not inside else f":{inside}/ui"
    return replace(made, page=page if spec.router.options.get("ui", True) else "")


def _command(spec: Spec, plan: Plan) -> Router:
    # that there is a command was checked when the file was read
    argv = parsed(spec, ("router", "command"), spec.router.command or (), plan, default="router")
    return Router(argv=argv, environ=dict(spec.router.env), host=spec.hostname, port=spec.port, health=spec.router.health or "/health")
