"""The forms of a layout that launchers and people read: each a pure function of the plan and the host names by node number.

What the launchers make of them was read off Open MPI 4.1 and 5.0, MPICH 5.0 (hydra) and Slurm 22.05.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections import Counter
from itertools import groupby
from typing import Iterator, NamedTuple, Sequence

from disagg_launch.layouts.bars import gpus_of
from disagg_launch.layouts.terminal import table as columns
from disagg_launch.plan import Plan, Rank

Hosts = Sequence[str]
COLUMNS = ("rank", "host", "node", "gpu", "instance", "role", "instance_rank", "tp_rank", "pp_rank")


class Part(NamedTuple):
    """One component of a heterogeneous Slurm job: like nodes that follow each other. `tasks`: the most on one of them, at least 1."""

    first_node: int
    nodes: int
    tasks: int
    gpus: int


def host_list(plan: Plan, hosts: Hosts) -> str:
    """Host names by node number, one per line."""
    return "".join(f"{host}\n" for host in hosts[: plan.node_count])


def hostfile(plan: Plan, hosts: Hosts) -> str:
    """Open MPI: `host slots=N`, N being the ranks on it; hosts without ranks are left out. `mpirun --hostfile`."""
    ranks_on = Counter(rank.node for rank in plan.ranks)
    return "".join(f"{hosts[node]} slots={ranks_on[node]}\n" for node in sorted(ranks_on))


def rankfile(plan: Plan, hosts: Hosts) -> str:
    """Open MPI: `rank N=host slot=*`, any CPU. `mpirun --hostfile hostfile --map-by rankfile:file=rankfile --bind-to none`; 4.x: `-rf`."""
    return "".join(f"rank {rank.rank}={hosts[rank.node]} slot=*\n" for rank in plan.ranks)


def sequence(plan: Plan, hosts: Hosts) -> str:
    """A host for each rank, one per line: Slurm's SLURM_HOSTFILE with --distribution=arbitrary, Open MPI's --map-by seq."""
    return "".join(f"{hosts[rank.node]}\n" for rank in plan.ranks)


def machinefile(plan: Plan, hosts: Hosts) -> str:
    """MPICH (hydra): `host:N` for each run of ranks on one host, in rank order. `mpiexec -f`."""
    return "".join(f"{hosts[node]}:{len(ranks)}\n" for node, ranks in _runs(plan.ranks))


def map_by(plan: Plan, hosts: Hosts) -> str:
    """Open MPI's options: `ppr` if every host has equally many ranks, one after the other, else the sequence of hosts."""
    runs = [(node, len(ranks)) for node, ranks in _runs(plan.ranks)]
    even = len({count for _, count in runs}) == 1 and [node for node, _ in runs] == sorted({node for node, _ in runs})
    if even:
        return f"--hostfile hostfile --map-by ppr:{runs[0][1]}:node --rank-by slot --bind-to none\n"
    return "--hostfile slurm-hostfile --map-by seq --bind-to none\n"


def appfile(plan: Plan, hosts: Hosts) -> str:
    """Open MPI: an application context for each run of an instance's ranks on one host. `mpirun --bind-to none --app`."""
    command = shlex.join(worker(plan, "openmpi"))
    groups = (list(group) for _, group in groupby(plan.ranks, key=lambda rank: (rank.node, rank.instance)))
    return "".join(f"-np {len(ranks)} --host {hosts[ranks[0].node]}:{len(ranks)} {command}\n" for ranks in groups)


def multi_prog(plan: Plan, hosts: Hosts) -> str:
    """Slurm: task numbers and what they run, a line for each instance. `srun --multi-prog`."""
    lines = [f"# plan {plan.digest} of {plan.name}"]
    for one in plan.instances:
        numbers = f"{one.first_rank}-{one.first_rank + one.size - 1}" if one.size > 1 else str(one.first_rank)
        lines.append(f"{numbers} {shlex.join(['env', f'DISAGG_INSTANCE={one.name}', *worker(plan, 'slurm')])}")
    return "\n".join(lines) + "\n"


def het_groups(plan: Plan, hosts: Hosts) -> str:
    """Slurm: the #SBATCH lines of a heterogeneous job, a component for each kind of node."""
    lines = (f"#SBATCH --nodes={part.nodes} --ntasks-per-node={part.tasks} --gpus-per-node={part.gpus}\n" for part in parts(plan))
    return "#SBATCH hetjob\n".join(lines)


def gpus(plan: Plan, hosts: Hosts) -> str:
    """What each rank sees: `rank host CUDA_VISIBLE_DEVICES=N`."""
    return "".join(f"{rank.rank} {hosts[rank.node]} CUDA_VISIBLE_DEVICES={rank.gpu}\n" for rank in plan.ranks)


def table_text(plan: Plan, hosts: Hosts) -> str:
    """Every rank's row, in columns."""
    return "".join(f"{line}\n" for line in columns(COLUMNS, [list(row) for row in _rows(plan, hosts)]))


def table_csv(plan: Plan, hosts: Hosts) -> str:
    """Every rank's row, as CSV with a heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(plan, hosts))
    return out.getvalue()


def table_json(plan: Plan, hosts: Hosts) -> str:
    """Every rank's row, as a JSON list with a row per line."""
    rows = ",\n".join(json.dumps(dict(zip(COLUMNS, row))) for row in _rows(plan, hosts))
    return f"[\n{rows}\n]\n" if rows else "[]\n"


def worker(plan: Plan, launcher: str) -> list[str]:
    """The command that makes a task the rank that the plan says it is."""
    return ["python3", "runtime.pyz", "rank", "--launcher", launcher, "--step", "world", "--digest", plan.digest]


def parts(plan: Plan) -> list[Part]:
    """The components of a heterogeneous job: neighbours with equally many GPUs and, if no node has both roles, one role.

    A node without ranks goes with the one before it.
    """
    roles: list[set[str]] = [set() for _ in range(plan.node_count)]
    ranks_on = Counter(rank.node for rank in plan.ranks)
    for rank in plan.ranks:
        roles[rank.node].add(rank.role)
    separate = all(len(there) <= 1 for there in roles)
    kinds: list[tuple[int, list[str]]] = []
    for count, there in zip(gpus_of(plan), roles):
        alone = not there and bool(kinds) and kinds[-1][0] == count
        kinds.append(kinds[-1] if alone else (count, sorted(there) if separate else []))
    out: list[Part] = []
    for (count, _), group in groupby(range(plan.node_count), key=lambda node: kinds[node]):
        nodes = list(group)
        out.append(Part(nodes[0], len(nodes), max(1, *(ranks_on[node] for node in nodes)), count))
    return out


def _rows(plan: Plan, hosts: Hosts) -> Iterator[tuple[object, ...]]:
    for rank in plan.ranks:
        known = {**vars(rank), "host": hosts[rank.node]}
        yield tuple(known[column] for column in COLUMNS)


def _runs(ranks: Sequence[Rank]) -> Iterator[tuple[int, list[Rank]]]:
    """(node, ranks) for each run of neighbours in rank on one node."""
    return ((node, list(group)) for node, group in groupby(ranks, key=lambda rank: rank.node))
