"""The stage of a rehearsal: the run folder of the same plan, with featherweight workers instead of the engine. Pure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disagg_launch import render
from disagg_launch.engines.command import plain
from disagg_launch.engines.servers import TLS_FILES
from disagg_launch.files import File
from disagg_launch.rehearse.scenario import Scenario
from disagg_launch.spec.maps import Engine, FrontDoor

if TYPE_CHECKING:
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

SCRIPT = "configs/rehearsal.json"
WORKER = "disagg_launch.rehearse.worker"
OURS = Path(__file__).parents[2]
# what a rehearsal on one machine leaves out of a topology: who gives the nodes, and how workers find the front door
LEFT_OUT = ("slurm", "mpi", "disagg_cluster", "metadata_server", "autoscale", "conditional_disagg_config", "otlp_config")


def files(spec: Spec, plan: Plan, scenario: Scenario) -> tuple[File, ...]:
    """Every file of the run folder. BadInput if a fault of the scenario is meant for nobody."""
    script = File(SCRIPT, json.dumps(scenario.script(plan), indent=1) + "\n")
    return (*render.render(rehearsed(spec), plan, "local", sys.executable), script)


def rehearsed(spec: Spec) -> Spec:
    """The topology with the worker of rehearsals as its engine, our front door, and this machine only; everything else as it is."""
    # without site-packages a worker is up in some 30 ms
    program = (plain(word) for word in (sys.executable, "-S", "-m", WORKER))
    command = (*program, "{run}/" + SCRIPT, "--host", "{host}", "--port", "{port}")
    bare: dict[str, Any] = {"command": None, "env": {"PYTHONPATH": str(OURS)}, "health": None}
    fields = {name: getattr(spec, name) for name in spec.model_fields_set if name not in LEFT_OUT}
    fields |= {
        "hostname": "localhost",
        "env": {},
        "engine": Engine(name="command", command=command),
        "router": _in_plain_http(spec.router) if spec.router.name == "builtin" else FrontDoor(),
        "context_servers": spec.context_servers.model_copy(update=bare),
        "generation_servers": spec.generation_servers.model_copy(update=bare),
    }
    return type(spec).model_construct(set(fields), **fields, external=spec.external, warnings=spec.warnings, source=spec.source)


def _in_plain_http(router: FrontDoor) -> FrontDoor:
    # the certificate may be on another machine, and its key nobody's business here
    return router.model_copy(update={"options": {key: value for key, value in router.options.items() if key not in TLS_FILES}})
