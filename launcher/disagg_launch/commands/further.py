"""The further Slurm jobs of a run, as `scale` sees them: which there are, one more, one less."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from disagg_launch.errors import DoesNotFit
from disagg_launch.plan import PREFIX
from disagg_launch.runtime.further import FOLDER

if TYPE_CHECKING:
    from disagg_launch.plan import Plan
    from disagg_launch.spec import Spec

ALIVE = ("pending", "starting", "ready")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Job:
    """A further job that waits, starts or serves: its run folder and id, its state, its plan, and who of it is stopped."""

    run: pathlib.Path
    job: str
    state: str
    plan: Plan
    resting: frozenset[str] = frozenset()

    def names(self, role: str, resting: bool = False) -> list[str]:
        """The instances of a role that run or are to run, or those that are stopped."""
        return [one.name for one in self.plan.instances if one.role == role and (one.name in self.resting) is resting]


@dataclass(frozen=True)
class Cut:
    """What a smaller wish means for a job: `stops` of it, or the whole of it, if nothing stays that it could serve with."""

    job: Job
    stops: tuple[str, ...]
    whole: bool


def alive(run: pathlib.Path) -> list[Job]:
    """The further jobs of a run that are not over, oldest first."""
    from disagg_launch import plan as plans
    from disagg_launch.backends.slurm import jobs
    from disagg_launch.runtime import folder

    found = []
    for path in sorted((run / FOLDER).glob("*/job.json"), key=lambda one: int(one.parent.name)):
        state = jobs.status_now(path.parent)["state"]
        if state in ALIVE:
            plan = plans.from_json((path.parent / "plan.json").read_text(encoding="utf-8"))
            resting = folder.call(str(path.parent.resolve()), {"kind": "progress"})["resting"] if state == "ready" else ()
            found.append(Job(path.parent, jobs.job_of(path.parent) or "", state, plan, frozenset(resting)))
    return found


def cuts(jobs: list[Job], surplus: dict[str, int]) -> Iterator[Cut]:
    """Whom to stop so that `surplus` instances by role go, newest jobs first; what is taken is taken from `surplus`.

    A job that does not serve yet can only be ended whole: what it should have kept makes `surplus` negative.
    """
    for job in reversed(jobs):
        there = {role: job.names(role) for role in surplus}
        going = {role: max(0, min(surplus[role], len(names))) for role, names in there.items()}
        if not any(going.values()):
            continue
        whole = job.state != "ready" or all(going[role] == len(names) for role, names in there.items())
        for role, names in there.items():
            surplus[role] -= len(names) if whole else going[role]
        stops = tuple(name for role, names in there.items() for name in reversed(names[len(names) - going[role] :]))
        yield Cut(job, tuple(name for names in there.values() for name in names) if whole else stops, whole)


def end(job: Job) -> None:
    """End a job whose instances have been stopped, or that waits: of one that never ran nothing stays."""
    from disagg_launch.backends.slurm import jobs

    click.echo(f"{FOLDER}/{job.run.name}: {jobs.cancel(job.job, PATIENCE_S).sentence()}")
    if not (job.run / "state").exists():
        shutil.rmtree(job.run)


def begin(run: pathlib.Path, spec: Spec, counts: Mapping[str, int], limit_s: float) -> None:
    """Send a job with `counts` more instances by role, and wait until requests are sent to them.

    DoesNotFit if the deployment cannot have one; NotReady after `limit_s`, and the job stays where it is then.
    """
    from disagg_launch import render
    from disagg_launch.backends.slurm import jobs
    from disagg_launch.commands import run as runs
    from disagg_launch.discovery import overflow

    if spec.disagg_cluster is None:
        raise DoesNotFit(
            "the job's nodes are full, and workers of a further job need a way to join: set disagg_cluster: {cluster_uri: auto} in the "
            "topology file, or ask for more nodes (cluster.spare_nodes)"
        )
    main = run.resolve()
    given = spec.disagg_cluster.cluster_uri
    router = json.loads((main / "state/status.json").read_text(encoding="utf-8"))["router"]["inside"]
    number = 1 + max((int(one.name) for one in (run / FOLDER).glob("[0-9]*")), default=0)
    path = main / FOLDER / str(number)
    text = overflow.topology(spec, f"{spec.name}-{number}", counts, router if given == "auto" else given, str(main))
    path.parent.mkdir(exist_ok=True)
    draft = path.parent / f".{number}.yaml"
    draft.write_text(text, encoding="utf-8")
    try:
        _, _, files = runs.rendered(draft, "slurm")
    finally:
        draft.unlink()
    render.write(files, path)
    told = ", ".join(f"{count} {PREFIX[role]}" for role, count in counts.items() if count)
    click.echo(f"{FOLDER}/{number}: {told} in a further job, {jobs.send(path)}")
    jobs.wait(path, limit_s, lambda said: click.echo(said, err=True))
