"""Slurm: job.sbatch, and one script with one srun for each step.

Every step says all it needs itself, because what it leaves out it inherits from the job's variables. Tasks are placed one by
one (`--distribution=arbitrary`, a host name for each task), so that uneven nodes, any node order and a node that was
replaced need no case of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from disagg_launch import backends
from disagg_launch import plan as plans
from disagg_launch.backends import mpirun
from disagg_launch.backends.slurm import container, header
from disagg_launch.backends.slurm import site as sites
from disagg_launch.backends.slurm.held import path as ports_path
from disagg_launch.backends.slurm.held import ports
from disagg_launch.errors import BadInput
from disagg_launch.files import RUNNABLE, File
from disagg_launch.launch import Start
from disagg_launch.plan import Plan, Step
from disagg_launch.runtime import allocation
from disagg_launch.runtime.tasks import Task, tasks_of
from disagg_launch.templating import Raw
from disagg_launch.templating import render as text_of

if TYPE_CHECKING:
    from disagg_launch.backends.slurm.container import Words
    from disagg_launch.backends.slurm.header import Component
    from disagg_launch.backends.slurm.site import Site
    from disagg_launch.launch import Router, Worker
    from disagg_launch.spec import Spec

STOP, LOST, RELEASE, ROUTER = "steps/stop.sh", "steps/lost.sh", "steps/release.sh", "steps/router.sh"
LAUNCHER = "slurm"
# nobody can name the node that will be given; loopback would shut out the login node
LISTEN = "0.0.0.0"  # noqa: S104


@dataclass(frozen=True)
class Job:
    """All that the scripts of one run are made of."""

    spec: Spec
    site: Site
    plan: Plan
    workers: tuple[Worker, ...]
    parts: tuple[Component, ...]
    python: str

    @property
    def gpus_flag(self) -> str:
        """How GPUs are asked for; "none" also when no worker uses any."""
        return (self.spec.slurm.gpus_flag or self.site.gpus_flag) if any(w.gpus for w in self.workers) else "none"

    def part_of(self, node: int) -> int:
        """The number of the part that holds a node of the plan."""
        return next(n for n, part in enumerate(self.parts) if node < part.first_node + part.count)


def render(spec: Spec, plan: Plan, workers: tuple[Worker, ...], python: str) -> tuple[tuple[Start, ...], tuple[File, ...]]:
    """How each step is started, and its script; the scripts of the router and of stopping; and job.sbatch."""
    job = Job(spec, sites.load(spec.slurm.site), plan, workers, header.components(spec, plan), python)
    if not plan.instances:
        return (), (_job_script(job, ()), *_common_scripts(job))
    if spec.slurm.mode == "single-mpirun":
        flavor = mpirun.FLAVORS[spec.mpi.flavor]
        starts: tuple[Start, ...] = (replace(_start(spec, plans.step_of_world(plan)), stop=(), launcher=flavor.launcher),)
        scripts: tuple[File, ...] = (_mpirun_script(job, starts[0], flavor),)
    else:
        steps = plans.steps_per_instance(plan) if spec.slurm.mode == "step-per-instance" else (plans.step_of_world(plan),)
        starts = tuple(_start(spec, step) for step in steps)
        scripts = tuple(_step_script(job, start) for start in starts)
    return starts, (_job_script(job, starts), *scripts, *_common_scripts(job))


def router(spec: Spec, front: Router) -> Router:
    """The front door as a step of its own on the first node, in a container if the workers are in one."""
    if not front.argv:
        return front
    # one that is not ours is told nothing, but waited for as long
    front = backends.draining(front, spec.slurm.drain_s) if spec.router.name == "builtin" else replace(front, drain_s=spec.slurm.drain_s)
    return replace(front, argv=("bash", ROUTER, *front.argv), stop=("bash", STOP, "router"))


def array(jobs: Mapping[str, str]) -> File:
    """One job.sbatch for an array whose tasks run the job scripts `jobs` (folder -> text) in their folders.

    A task is given as many nodes as the largest asks for; what it does not need is spare. BadInput when they differ in anything else.
    """
    headers = [header.read(text) for text in jobs.values()]
    text = text_of(
        "slurm/array.sbatch.j2",
        last=len(jobs) - 1,
        options=[Raw(line) for line in header.merged(list(jobs), headers)],
    )
    return File("job.sbatch", text, RUNNABLE)


def gateway(folder: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The command that runs the deployment inside the allocation of `environ`. BackendRefused outside of one."""
    allocation.hosts(environ)
    return ("bash", f"{folder}/job.sbatch")


def _start(spec: Spec, step: Step) -> Start:
    argv, stop, release = ("bash", f"steps/{step.name}.sh"), ("bash", STOP, step.name), ("bash", RELEASE) if _gives_back(spec) else ()
    return Start(step.name, step.first_rank, step.size, step.instances, argv, stop, LAUNCHER, ("bash", LOST), release)


def _gives_back(spec: Spec) -> bool:
    """Whether the job may shrink: Slurm changes no part of a heterogeneous one, and one that is requeued would come back too small."""
    return spec.slurm.het is None and not any(g.partition for g in spec.cluster.groups) and not spec.slurm.requeue


def _job_script(job: Job, starts: tuple[Start, ...]) -> File:
    tasks = [task for start in starts for task in tasks_of(job.plan, start, job.workers)]
    told = [header.lines(job.site, part, _most_on_a_node(tasks, part), job.gpus_flag != "none") for part in job.parts]
    told[0] = header.job_lines(job.spec) + told[0]
    text = text_of(
        "slurm/job.sbatch.j2",
        title=f"{job.spec.name}: {', '.join(i.name for i in job.plan.instances)} on {job.plan.node_count} nodes",
        digest=job.plan.digest,
        parts=[[Raw(line) for line in part] for part in told],
        python=job.site.python,
        interface=job.spec.slurm.interface or job.site.interface or "",
        deputy=_deputy(job) if sum(part.count for part in job.parts) > 1 else "",
        requeue=Raw(" --requeue" if job.spec.slurm.requeue else ""),
        surveys=[_survey(job, number, "addresses") for number in range(len(job.parts))],
        signal=job.spec.slurm.signal_s,
    )
    return File("job.sbatch", text, RUNNABLE)


def _most_on_a_node(tasks: list[Task], part: Component) -> int:
    held = Counter(t.row.node for t in tasks)
    return max((held[n] for n in range(part.first_node, part.first_node + part.count)), default=0) or 1


def _survey(job: Job, number: int, name: str) -> Words:
    """A step with one task on every host of one part of the job."""
    several = len(job.parts) > 1
    # counted in the job, which may have been given more nodes than this run needs
    count = f"$SLURM_JOB_NUM_NODES_HET_GROUP_{number}" if several else "$SLURM_JOB_NUM_NODES"
    group = [f"--het-group={number}"] if several else []
    place = [f"--job-name={name}", *group, Raw(f'--nodes="{count}"'), Raw(f'--ntasks="{count}"'), "--ntasks-per-node=1"]
    return ["srun", *place, "--overlap", *_gpus(job.gpus_flag, 0), "--mpi=none", "--export=ALL"]


def _deputy(job: Job) -> Words:
    """A step with one task on the job's second host, which is never given back."""
    second = [Raw('--nodelist="$(cut --delimiter=, --fields=2 <<<"$hosts")"')]
    # where parts are unlike, the last of them has the last host for sure
    place = [f"--het-group={len(job.parts) - 1}", Raw('--nodelist="${hosts##*,}"')] if len(job.parts) > 1 else second
    place = [*place, "--nodes=1", "--ntasks=1", "--overlap", *_gpus(job.gpus_flag, 0)]
    return ["srun", "--job-name=deputy", *place, "--mpi=none", "--export=ALL"]


def _step_script(job: Job, start: Start) -> File:
    tasks = tasks_of(job.plan, start, job.workers)
    part = _only_part(job, start, tasks)
    last = start.first_rank + start.size - 1
    placed: Words = [
        f"--job-name={start.step}",
        Raw('--nodelist="$hosts"'),
        "--distribution=arbitrary",
        f"--nodes={len({t.row.node for t in tasks})}",
        f"--ntasks={len(tasks)}",
        *_resources(job, part, tasks),
        f"--mpi={job.spec.slurm.mpi or job.site.mpi}",
        "--kill-on-bad-exit=1",
        "--label",
    ]
    rank = ("rank", f"--launcher={LAUNCHER}", f"--step={start.step}", f"--digest={job.plan.digest}")
    text = text_of(
        "slurm/step.sh.j2",
        title=f"{start.step}: ranks {start.first_rank} to {last} of plan {job.plan.digest}",
        step=start.step,
        options=[*placed, *_common(job, job.part_of(tasks[0].row.node))],
        command=[*container.prefix(job.spec.slurm, job.site), *_numactl(job.spec), job.python, Raw('"$PWD/runtime.pyz"'), *rank],
        **_surroundings(job),
    )
    return File(f"steps/{start.step}.sh", text, RUNNABLE)


def _mpirun_script(job: Job, start: Start, flavor: mpirun.Flavor) -> File:
    tasks = tasks_of(job.plan, start, job.workers)
    _only_part(job, start, tasks)
    nodes = [str(t.row.node) for t in tasks]
    around = _surroundings(job)
    # ranks in turn over the hosts of a sequence, or host after host with a count each
    in_turn = bool(flavor.sequence) and len(set(nodes)) > 1
    text = text_of(
        "slurm/mpirun.sh.j2",
        title=f"all {start.size} ranks of plan {job.plan.digest}",
        step=start.step,
        line="" if in_turn else Raw(flavor.line.format(host='"$host"', count='"$count"')),
        host_file=mpirun.HOST_FILE,
        command=mpirun.command(job.spec, job.python, start.step, job.plan.digest, nodes),
        **{**around, "environ": [*flavor.environ, *around["environ"]]},
    )
    return File(f"steps/{start.step}.sh", text, RUNNABLE)


def _router_script(job: Job) -> File:
    placed: Words = ["--job-name=router", Raw('--nodelist="${hosts%%,*}"'), "--nodes=1", "--ntasks=1"]
    text = text_of(
        "slurm/router.sh.j2",
        options=[*placed, "--overlap", *_gpus(job.gpus_flag, 0), "--mpi=none", *_common(job, 0)],
        command=container.prefix(job.spec.slurm, job.site),
        **_surroundings(job),
    )
    return File(ROUTER, text, RUNNABLE)


def _common_scripts(job: Job) -> tuple[File, ...]:
    texts = {STOP: text_of("slurm/stop.sh.j2"), LOST: text_of("slurm/lost.sh.j2", python=job.site.python)}
    if _gives_back(job.spec):
        texts[RELEASE] = text_of("slurm/release.sh.j2")
    front = (_router_script(job),) if job.spec.router.name != "none" else ()
    return *front, *(File(path, text, RUNNABLE) for path, text in texts.items()), *_ports_scripts(job)


def _ports_scripts(job: Job) -> Iterator[File]:
    """What holds ports that were not given, on the hosts of each part of the job."""
    for number in range(len(ports(job.spec, job.plan).holds)):
        # a host that is lost must not take from the others what they hold
        options = [*_survey(job, number, "ports"), "--no-kill"][1:]
        yield File(ports_path(number), text_of("slurm/ports.sh.j2", options=options, python=job.site.python), RUNNABLE)


def _surroundings(job: Job) -> dict[str, Any]:
    """What both kinds of step script do before srun."""
    unset = [Raw(f'"${{!{name[:-1]}@}}"' if name.endswith("*") else name) for name in job.site.unset]
    return {"python": job.site.python, "environ": sorted(job.site.env.items()), "unset": unset}


def _common(job: Job, part: int) -> Words:
    """The options that every step has."""
    return [
        *([f"--cpu-bind={job.site.cpu_bind}"] if job.site.cpu_bind else []),
        # said, because a job that was sent with --export=NONE would pass that on; no value travels here, where a comma would split it
        "--export=ALL",
        *([f"--het-group={part}"] if len(job.parts) > 1 else []),
        *job.site.srun_args,
        *job.spec.slurm.srun_args,
        *container.options(job.spec.slurm, job.site),
    ]


def _resources(job: Job, part: Component, tasks: tuple[Task, ...]) -> list[str]:
    """How the step gets GPUs and CPUs: sharing all that the job has on its nodes, or some for itself."""
    if job.site.sharing == "overlap":
        return ["--overlap", *_gpus(job.gpus_flag, part.gpus_per_node)]
    cpus = [f"--cpus-per-task={part.part.cpus_per_task}"] if part.part.cpus_per_task else []
    slots: dict[int, set[int]] = {}
    for row in (row for task in tasks for row in task.rows):
        slots.setdefault(row.node, set()).add(row.gpu)
    counts = sorted({len(held) for held in slots.values()})
    if len(counts) > 1:
        raise BadInput(
            f"site {job.site.name}: sharing: exact needs equally many GPUs on each node of a step; {tasks[0].instance.name} has "
            f"{' and '.join(map(str, counts))}: set sharing: overlap in the profile, or choose sizes that divide evenly"
        )
    return ["--exact", *cpus, *_gpus(job.gpus_flag, counts[0])]


def _gpus(flag: str, count: int) -> list[str]:
    """A step's GPUs on each node. Never --gpus: it does not replace the per-node count that is inherited, and --gpus=0 hides nothing."""
    if flag == "none":
        return []
    if flag == "gres":
        return [f"--gres=gpu:{count}" if count else "--gres=none"]
    return [f"--gpus-per-node={count}"]


def _only_part(job: Job, start: Start, tasks: tuple[Task, ...]) -> Component:
    """The part of the job that holds the whole step. BadInput when there are several."""
    found = {job.part_of(row.node) for task in tasks for row in task.rows}
    if len(found) > 1:
        raise BadInput(
            f"slurm: step {start.step} lies on nodes of {len(found)} parts of a heterogeneous job; set slurm.mode: step-per-instance "
            "and keep each instance inside one part"
        )
    return job.parts[found.pop()]


def _numactl(spec: Spec) -> list[str]:
    # GB200 and GB300: GPU memory shows as further NUMA nodes; 0 and 1 are the CPUs'
    return ["numactl", "--membind=0,1"] if spec.slurm.numa_bind else []
