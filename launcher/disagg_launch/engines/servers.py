"""Whom a front door serves, and at which ports: the addresses of a role's instances, and its own, as its configuration needs them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from disagg_launch.launch import Ref, Text
from disagg_launch.plan import Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec


TLS_FILES = ("tls_cert_file", "tls_key_file")


def front_port(number: int) -> Ref:
    """A port of the front door's own, as it is bound."""
    return Ref("front_port", str(number))


def tls_files(spec: Spec) -> dict[str, str]:
    """The absolute paths of our front door's certificate and key by their options' names; {} where it speaks plain HTTP.

    Relative ones are beside the topology file.
    """
    beside = os.path.dirname(os.path.abspath(spec.source.file))
    given = {key: spec.router.options.get(key) for key in TLS_FILES if spec.router.name == "builtin"}
    return {key: os.path.join(beside, os.path.expanduser(str(path))) for key, path in given.items() if path}


def inside_port(spec: Spec) -> int:
    """Our front door's port for the launcher, where clients come by another one; 0 if there is only one.

    With TLS the launcher takes the one just below, unless the file gives an `admin_port`.
    """
    given = spec.router.options.get("admin_port") if spec.router.name == "builtin" else 0
    below = spec.port - 1 if tls_files(spec) else 0
    return given if given and isinstance(given, int) else below  # anything else than a port is refused by the router itself


def inside_rises(spec: Spec) -> bool:
    """Whether that port is the launcher's choice, and with that goes where the other one goes."""
    return inside_port(spec) != 0 and not spec.router.options.get("admin_port")


def inside_address(spec: Spec) -> Text:
    """host:port at which workers and the launcher find our front door, whatever clients have to speak; late-bound."""
    if not tls_files(spec):
        return (Ref("url", "router"),)
    port = inside_port(spec)
    return (Ref("host", "router"), ":", front_port(port) if inside_rises(spec) else str(port))


def servers(spec: Spec, plan: Plan, role: str) -> list[Any]:
    """host:port of each server of a role: those that run already, or the plan's instances, late-bound."""
    section = spec.section(role)
    return list(section.urls) if spec.external else [Ref("url", i.name) for i in plan.instances if i.role == role]
