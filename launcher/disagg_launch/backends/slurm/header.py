"""The #SBATCH lines of a job. Slurm reads them, not a shell, so no quoting helps: every value fits a pattern or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION, Plan
from disagg_launch.spec import SlurmPart

if TYPE_CHECKING:
    from disagg_launch.backends.slurm.site import Site
    from disagg_launch.spec import Slurm, Spec

# no blanks, quotes, backslashes or #: sbatch would split, strip or end the line there
MARK = "#SBATCH "
# what the tasks of an array may differ in: sizes, of which each gets the largest, and what the array has of its own
SIZES = ("--nodes=", "--ntasks-per-node=")
OWN = ("--job-name=", "--output=", "--array=")
SAFE = re.compile(r"[A-Za-z0-9_./:,=+@%*\[\]()|&!<>^~-]+")
# within double quotes sbatch takes all but the quote and the backslash as it stands; what some readers take for a line's end is refused
QUOTABLE = re.compile(r'[^"\\\x00-\x1f\x7f-\x9f\u2028\u2029]+')
OPTION = re.compile(rf"--?[A-Za-z][A-Za-z0-9-]*(?:[= ]{SAFE.pattern})?")
# field of the topology -> sbatch's option
OF_PART = {
    **{name: name for name in ("account", "partition", "qos", "reservation", "constraint")},
    "cpus_per_task": "cpus-per-task",
    "memory": "mem",
    "nodelist": "nodelist",
    "exclude_hosts": "exclude",
    "segment": "segment",
    "switches": "switches",
}
OF_JOB = {
    **{name: name for name in ("time", "comment", "dependency", "array")},
    "mail_type": "mail-type",
    "mail_user": "mail-user",
}


@dataclass(frozen=True)
class Component:
    """One part of a job: plan nodes first_node .. first_node+count-1, of one kind. An ordinary job has one."""

    part: SlurmPart
    first_node: int
    count: int
    gpus_per_node: int


def components(spec: Spec, plan: Plan) -> tuple[Component, ...]:
    """The parts of the job in node order: one, or with `slurm.het` one for each role, or one for each node group.

    Spare nodes belong to the last part. BadInput when a node would belong to two.
    """
    slurm, spare = spec.slurm, spec.cluster.spare_nodes
    if slurm.het is None and not any(g.partition for g in spec.cluster.groups):
        return (Component(slurm, 0, plan.node_count + spare, plan.gpus_per_node),)
    if plan.groups:
        wanted = {g.name: g for g in spec.cluster.groups}
        asked = [_over(slurm, wanted[g.name].roles, wanted[g.name].partition) for g in plan.groups]
        made = [Component(part, g.first_node, g.count, g.gpus_per_node) for part, g in zip(asked, plan.groups)]
    else:
        made = [Component(_over(slurm, (role,), None), nodes[0], len(nodes), plan.gpus_per_node) for role, nodes in _by_role(plan)]
    last = made[-1]
    return (*made[:-1], Component(last.part, last.first_node, last.count + spare, last.gpus_per_node))


def lines(site: Site, part: Component, tasks_per_node: int, gpus: bool) -> list[str]:
    """The options of one part, each as it stands after `#SBATCH `. Those of the whole job are in `job_lines`."""
    asked = part.part
    out = [f"--nodes={part.count}", f"--ntasks-per-node={tasks_per_node}"]
    out += _gpu_lines(asked, site, part.gpus_per_node) if gpus else []
    usual = {"account": site.account, "partition": site.partition, "segment": part.count if site.segment else None}
    out += _options(asked, OF_PART, usual)
    if site.exclusive if asked.exclusive is None else asked.exclusive:
        out.append("--exclusive")
    return out + [_extra(one, "slurm.extra_args") for one in (*site.sbatch_args, *asked.extra_args)]


def job_lines(spec: Spec) -> list[str]:
    """The options that count for the whole job, wherever its parts are."""
    slurm = spec.slurm
    out = [f"--job-name={slurm.job_name or spec.name}", "--output=logs/job-%j.log", *_options(slurm, OF_JOB, {})]
    if slurm.requeue is not None:
        out.append("--requeue" if slurm.requeue else "--no-requeue")
    if slurm.signal_s:
        out.append(f"--signal=B:TERM@{slurm.signal_s}")
    # a lost node ends the steps on it, and the gateway decides; without this Slurm ends the whole job
    out.append("--no-kill")
    return out


def read(text: str) -> list[str]:
    """The options in a job script that was rendered here."""
    return [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]


def merged(names: Sequence[str], headers: Sequence[Sequence[str]]) -> list[str]:
    """One header for several jobs: the largest of their sizes, and everything else as all of them have it. BadInput where they differ."""
    sizes = {option: max((_number(h, option) for h in headers), default=0) for option in SIZES}
    common = [[line for line in one if not line.startswith((*SIZES, *OWN))] for one in headers]
    for name, one in zip(names, common):
        if different := sorted(set(one) ^ set(common[0])):
            raise BadInput(
                f"{name}: its job asks for {', '.join(different)} otherwise than that of {names[0]}; "
                "the tasks of an array must ask for the same: submit them one by one"
            )
    return [*(f"{option}{count}" for option, count in sizes.items()), *common[0]]


def _number(lines: Sequence[str], option: str) -> int:
    return max(int(line.removeprefix(option)) for line in lines if line.startswith(option))


def _gpu_lines(asked: SlurmPart, site: Site, count: int) -> list[str]:
    flag, kind = asked.gpus_flag or site.gpus_flag, asked.gpu_type or site.gpu_type
    if flag == "none":
        return []
    if flag == "gres":
        return ["--gres=gpu:" + (f"{kind}:" if kind else "") + str(count)]
    return ["--gpus-per-node=" + (f"{kind}:" if kind else "") + str(count)]


def _options(asked: SlurmPart, names: Mapping[str, str], otherwise: Mapping[str, Any]) -> list[str]:
    """The options of those fields that are set, or that the site sets otherwise."""
    values = {field: getattr(asked, field) for field in names}
    return [
        _option(option, value, field)
        for field, option in names.items()
        if (value := otherwise.get(field) if values[field] is None else values[field]) is not None
    ]


def _option(option: str, value: str | int, field: str) -> str:
    text = str(value)
    if SAFE.fullmatch(text):
        return f"--{option}={text}"
    if QUOTABLE.fullmatch(text) and option == "comment":
        return f'--{option}="{text}"'
    wrong = next((c for c in text if not SAFE.fullmatch(c)), "")
    raise BadInput(
        f"slurm.{field}: {text!r} holds {wrong!r}, which a #SBATCH line cannot carry safely; "
        "letters, digits and _./:,=+@%*[]()|&!<>^~- can stand there"
    )


def _extra(text: str, where: str) -> str:
    if OPTION.fullmatch(text):
        return text
    raise BadInput(f"{where}: {text!r} found; one sbatch option an item is needed, without blanks or quotes, such as --licenses=a:1")


def _over(slurm: Slurm, roles: tuple[str, ...], partition: Optional[str]) -> SlurmPart:
    """The job's wishes, with those of the role that alone may lie on these nodes, and a group's partition, put over them."""
    asked = {name: getattr(slurm, name) for name in SlurmPart.model_fields}
    if slurm.het and len(roles) == 1:
        part = getattr(slurm.het, roles[0])
        asked.update({name: getattr(part, name) for name in part.model_fields_set})
    if partition:
        asked["partition"] = partition
    return SlurmPart(**asked)


def _by_role(plan: Plan) -> list[tuple[str, list[int]]]:
    """Each role's nodes, roles in the order of their nodes. BadInput if they are mixed."""
    nodes = {role: sorted({r.node for r in plan.ranks if r.role == role}) for role in (CONTEXT, GENERATION)}
    found = sorted(((role, held) for role, held in nodes.items() if held), key=lambda pair: pair[1])
    if [node for _, held in found for node in held] != list(range(plan.node_count)):
        told = " and ".join(f"{role} on nodes {', '.join(map(str, held))}" for role, held in found)
        raise BadInput(
            f"slurm.het: each node must belong to one role, and a role's nodes must follow each other; found {told}: "
            "set cluster.policy: separate_roles"
        )
    return found
