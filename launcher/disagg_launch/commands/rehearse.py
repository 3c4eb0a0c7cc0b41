"""`rehearse`: the launch of a topology with featherweight workers on this machine, and what the launcher makes of things that go wrong."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

import click

from disagg_launch.commands.run import written
from disagg_launch.errors import BadInput, DisaggError

if TYPE_CHECKING:
    from disagg_launch.rehearse.report import Seen
    from disagg_launch.rehearse.scenario import Scenario
    from disagg_launch.spec import Spec

REHEARSALS = pathlib.Path("runs/rehearsals")
SERVES = re.compile(r"^\[0\] (\S+Z) healthy$", re.M)


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=pathlib.Path))
@click.option("--scenario", default="calm", show_default=True, help="A scenario file, or the name of one that comes along.")
@click.option("--list", "list_them", is_flag=True, help="List the scenarios that come along.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="How long to serve once ready, instead of the scenario's.")
@click.option("--run", type=click.Path(path_type=pathlib.Path), help="The run folder. [default: runs/rehearsals/NAME, counted up]")
@click.option("--json", "as_json", is_flag=True, help="Print what was seen as JSON.")
def rehearse(
    spec: Optional[pathlib.Path], scenario: str, list_them: bool, seconds: Optional[float], run: Optional[pathlib.Path], as_json: bool
) -> None:
    """Launch SPEC's plan with featherweight workers on this machine, have things go wrong, and report what the launcher did.

    Nothing of the engine runs: every rank is a small process that loads, is healthy and answers as told by the scenario. Placement, start,
    waiting, the front door, restarts and the end are the real ones. Exit code 1 if the launcher did not do what the scenario expects.
    """
    from disagg_launch.rehearse import report
    from disagg_launch.rehearse import scenario as scenarios

    if list_them:
        for name, one in scenarios.shipped().items():
            click.echo(f"{name:16} {one.about}")
        return
    if spec is None:
        raise BadInput("rehearse: found no topology file; needed: SPEC, or --list")
    wanted = scenarios.named(scenario)
    if seconds:
        wanted = wanted.model_copy(update={"serve_s": seconds})
    folder = _folder(spec, wanted, run)
    click.echo(f"run folder: {folder}", err=True)
    seen = _rehearsed(folder, wanted)
    if as_json:
        click.echo(json.dumps({**seen.as_json(), "events": list(_events(folder))}, indent=1))
    else:
        for line in (*report.lines(_events(folder)), "", *report.figures(seen)):
            click.echo(line)
    if wrong := report.missed(wanted.expect, seen):
        raise DisaggError("\n".join(["the rehearsal did not go as the scenario expects", *wrong]))


def _folder(path: pathlib.Path, scenario: Scenario, run: Optional[pathlib.Path]) -> pathlib.Path:
    """The run folder of the rehearsal, written."""
    from disagg_launch.commands.plan import planned
    from disagg_launch.rehearse import stage

    topology, plan = planned(path)
    if not plan.instances:
        raise BadInput(f"{path}: its servers run already; a rehearsal needs instances to start")
    _check_policy(path, topology, scenario)
    return written(topology, stage.files(topology, plan, scenario), run, REHEARSALS, begins=True)


def _check_policy(path: pathlib.Path, topology: Spec, scenario: Scenario) -> None:
    if scenario.expect.restarted and topology.restart.on_failure != "restart":
        raise BadInput(
            f"{path}: restart.on_failure: found {topology.restart.on_failure}; the scenario expects {', '.join(scenario.expect.restarted)}"
            " to come back, which needs restart"
        )


def _rehearsed(folder: pathlib.Path, scenario: Scenario) -> Seen:
    """Run it from the first process to the last; what was seen."""
    import psutil

    from disagg_launch import backends
    from disagg_launch.rehearse import visitors
    from disagg_launch.rehearse.report import Seen

    began = time.monotonic()
    gateway = subprocess.Popen(backends.load("local").gateway(str(folder), os.environ), stdout=subprocess.PIPE, text=True)
    seen: dict[str, Any] = {"complaints": []}
    try:
        assert gateway.stdout is not None
        said = gateway.stdout.readline()
        if said.startswith("ready: "):
            seen["ready_s"] = time.monotonic() - began
            process = psutil.Process(gateway.pid)
            seen["start_cpu_s"] = _cpu_s(process)
            until, from_s = time.monotonic() + scenario.serve_s, time.monotonic()
            over = lambda: time.monotonic() > until or gateway.poll() is not None  # noqa: E731
            seen["requests"], seen["complaints"] = visitors.visit(said.removeprefix("ready: ").strip(), scenario.requests_per_s, over)
            with contextlib.suppress(psutil.Error):
                seen["rest_share"] = (_cpu_s(process) - seen["start_cpu_s"]) / (time.monotonic() - from_s)
            seen["restarts"] = _restarts(folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            gateway.terminate()
        code = gateway.wait()
    plan = json.loads((folder / "plan.json").read_text())
    if "ready_s" in seen:
        seen["open_after_s"] = _open_after_s(folder)
    verdict = folder / "state/verdict.json"
    return Seen(len(plan["instances"]), len(plan["ranks"]), code, json.loads(verdict.read_text()) if verdict.exists() else {}, **seen)


def _cpu_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _restarts(folder: pathlib.Path) -> dict[str, int]:
    """How often each instance came back: it was started again and is healthy."""
    status = json.loads((folder / "state/status.json").read_text())
    return {one["name"]: one["restarts"] if not one["ended"] and one["stage"] != "started" else 0 for one in status["instances"]}


def _events(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "state/events.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _open_after_s(folder: pathlib.Path) -> Optional[float]:
    """From the last worker's word that it serves to the open front door, both on the gateway's clock."""
    opened = next((e["at"] for e in _events(folder) if e["event"] == "router" and e.get("stage") == "open"), None)
    words = [SERVES.search(log.read_text(encoding="utf-8", errors="replace")) for log in (folder / "logs").glob("*[0-9].log")]
    times = [datetime.datetime.fromisoformat(word[1].replace("Z", "+00:00")).timestamp() for word in words if word]
    return opened - max(times) if opened is not None and times else None
