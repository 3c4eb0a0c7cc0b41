"""Whom a front door serves: the addresses of a role's instances, as its configuration needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disagg_launch.launch import Ref
from disagg_launch.plan import Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec


def front_port(number: int) -> Ref:
    """A port of the front door's own, as it is bound."""
    return Ref("front_port", str(number))


def servers(spec: Spec, plan: Plan, role: str) -> list[Any]:
    """host:port of each server of a role: those that run already, or the plan's instances, late-bound."""
    section = spec.section(role)
    return list(section.urls) if spec.external else [Ref("url", i.name) for i in plan.instances if i.role == role]
