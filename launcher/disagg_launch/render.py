"""Spec and plan -> every file of the run folder, as values. Pure: `write` is the only function here that touches the disk."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from disagg_launch import backends, engines, launch, plan, routers, zipapp
from disagg_launch.discovery import growth, planned
from disagg_launch.engines import startup
from disagg_launch.errors import BadInput
from disagg_launch.files import RUNNABLE, File
from disagg_launch.spec import overrides

if TYPE_CHECKING:
    from disagg_launch.spec import Spec
    from disagg_launch.spec.maps import Scaled


def render(
    spec: Spec, layout: plan.Plan, backend: str, python: str, weights: startup.Weights = startup.nothing_at_hand
) -> tuple[File, ...]:
    """Every file of the run folder. `python` is the interpreter on the nodes unless the spec names one.

    `weights(model)` is the size of a model's weights in bytes, 0 where it is not known; with it the time to become ready is reckoned.

    BadInput, DoesNotFit or BackendRefused when the spec cannot be carried out as asked.
    """
    python = spec.engine.python or python
    give = backends.load(backend)
    hostname = spec.hostname if "hostname" in spec.model_fields_set else give.LISTEN
    spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"python": python}), "hostname": hostname})
    spec, limit = startup.timed(spec, layout.node_count, weights)
    engine = engines.load(spec.engine.name)
    workers = tuple(_worker(spec, layout, one, engine) for one in layout.instances)
    router, router_files = routers.router(spec, layout, python)
    starts, files = give.render(spec, layout, workers, python)
    _check_worlds(spec, workers, starts)
    manifest = launch.Launch(
        digest=layout.digest,
        backend=backend,
        starts=starts,
        workers=workers,
        router=give.router(spec, router),
        files={**(engine.files(spec, layout) if workers else {}), **router_files},
        readiness=launch.Readiness(**spec.readiness.model_dump(), limit_why=limit.why),
        policy=launch.Policy(**spec.restart.model_dump(), least=_least(spec)),
        autoscale=_autoscale(spec, layout, starts, python),
        ports=give.ports(spec, layout),
    )
    return (
        File("spec.yaml", spec.source.text),
        File("plan.json", plan.to_json(layout)),
        File("launch.json", launch.to_json(manifest)),
        File("runtime.pyz", zipapp.bundle(), RUNNABLE),
        *(_signed(one, spec) for one in (*files, *engine.prepare(spec))),
    )


def _signed(one: File, spec: Spec) -> File:
    """A script with the comments of the topology file that say how that was made, if some do."""
    said = overrides.origin(spec.source.text)
    if not said or not isinstance(one.text, str) or not one.text.startswith("#!"):
        return one
    first, _, rest = one.text.partition("\n")
    return replace(one, text="\n".join([first, *said, rest]))


def write(files: Iterable[File], run: pathlib.Path) -> None:
    """Write the run folder: all of it or nothing. BadInput if something is there that may not be replaced.

    A folder that was only rendered is replaced; one that was `used` is left alone.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        if not (run / "plan.json").exists():
            raise BadInput(f"{run}: found something that is not a run folder; name another with --run")
        if used(run):
            raise BadInput(f"{run}: found a run folder that was used; name another with --run, or remove it")
    fresh = run.with_name(f".{run.name}.{os.getpid()}")
    try:
        for one in files:
            path = fresh / one.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one.text if isinstance(one.text, bytes) else one.text.encode())
            path.chmod(one.mode)
        (fresh / "logs").mkdir()
        if run.exists():
            shutil.rmtree(run)
        fresh.rename(run)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # there only if something went wrong


def used(run: pathlib.Path) -> bool:
    """Whether a gateway ran in a folder, which then holds its logs, or a job was sent from it, which may yet begin there."""
    return (run / "state").exists() or (run / "job.json").exists()


def _check_worlds(spec: Spec, workers: tuple[launch.Worker, ...], starts: tuple[launch.Start, ...]) -> None:
    """BadInput if an engine would find other ranks in its MPI world than it needs."""
    wants = {one.instance: one.world for one in workers}
    for start in starts:
        worlds = {wants[name] for name in start.instances}
        if "instance" in worlds and len(start.instances) > 1:
            text = "needs an MPI world of its own for each instance, and one launcher starts them all here; use one step per instance"
        elif "plan" in worlds and len(start.instances) < len(workers):
            text = "needs all ranks in one MPI world: use `--backend mpirun`, or `slurm: {mode: single-srun}` or `single-mpirun`"
        else:
            continue
        raise BadInput(str(spec.source.complaint(("engine", "launch"), f"{spec.engine.launch or spec.engine.name} {text}", key=True)))


def _autoscale(spec: Spec, layout: plan.Plan, starts: tuple[launch.Start, ...], python: str) -> Optional[launch.Autoscale]:
    """The scaling policy, and the command by which the gateway carries it out. BadInput where instances cannot come and go."""
    given = spec.autoscale
    if given is None:
        return None
    if len(starts) != len(layout.instances):
        text = "needs one step per instance, and here one launcher starts them all: use the backend local or slurm"
        raise BadInput(str(spec.source.complaint(("autoscale",), text, key=True)))
    roles = {plan.CONTEXT: given.context_servers, plan.GENERATION: given.generation_servers}
    targets = {role: target(one) for role, one in roles.items() if one}
    # a further Slurm job may wait in the queue: it stays there, counts as there, and meanwhile the load is looked at again
    patience_s = max((one.cool_down_s for one in targets.values()), default=0.0)
    argv = (python, "-m", "disagg_launch", "scale", "--drain", f"{given.drain_s:g}", "--limit-s", f"{patience_s:g}")
    return launch.Autoscale(argv, targets, given.interval_s, given.window_s)


def _least(spec: Spec) -> dict[str, int]:
    """How many instances of each role the front door needs, where the topology says so for this run alone."""
    if spec.disagg_cluster is None or spec.router.name == "none":
        return {}
    return {role: growth.minimal(spec, role) for role in growth.ROLES}


def target(one: Scaled) -> launch.Target:
    """A role's part of the scaling policy, as the runtime half knows it."""
    return launch.Target(one.min, one.max, one.queue_s or 0.0, one.ttft_s or 0.0, one.cool_down_s, one.step)


def _worker(spec: Spec, layout: plan.Plan, instance: plan.Instance, engine: engines.Engine) -> launch.Worker:
    """The engine's worker with what the spec adds to any engine: environment, health path, and a companion if it cannot register."""
    made = engine.worker(spec, layout, instance)
    section = spec.section(instance.role)
    health = section.health or spec.engine.health or made.health
    argv = made.argv if engine.JOINS else planned.accompanied(spec, instance, made.argv, health, spec.engine.python or "python3")
    return replace(made, argv=argv, environ={**made.environ, **section.env}, health=health)
