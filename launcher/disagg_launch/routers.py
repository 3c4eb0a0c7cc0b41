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
from disagg_launch.engines.servers import front_port, servers
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
    files: dict[str, Text] = {CONFIG: yaml_text({**config(spec, plan), "front_door": {**front_door, **spec.router.options}})}
    argv: tuple[Text, ...] = (python, "-m", "disagg_launch", "router", "--config", (Ref("run"), "/" + CONFIG))
    if spec.engine.metadata_server:
        files[METADATA_CONFIG] = yaml_text(metadata_config(spec))
        argv = (*argv, "--metadata_server_config_file", (Ref("run"), "/" + METADATA_CONFIG))
    made = Router(argv=argv, environ=dict(spec.router.env), host=spec.hostname, port=spec.port, health=spec.router.health or "/health")
    # a worker that registers before its port accepts tries until it is taken
    admin_port = spec.router.options.get("admin_port", 0)  # anything else than a port is refused by the router itself
    made = replace(made, admin_port=admin_port if isinstance(admin_port, int) else 0)
    page = "/ui" if spec.router.options.get("ui", True) else ""
    return replace(made, metrics="/metrics", page=page, proves="pairs", waits=True, early=engine.JOINS == "openly" and served(spec)), files


def _command(spec: Spec, plan: Plan) -> Router:
    # that there is a command was checked when the file was read
    argv = parsed(spec, ("router", "command"), spec.router.command or (), plan, default="router")
    return Router(argv=argv, environ=dict(spec.router.env), host=spec.hostname, port=spec.port, health=spec.router.health or "/health")
