"""Launchers asked where they would put, or do put, each rank of a plan. None of this code knows how a form is written."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from disagg_launch.layouts.table import FORMS
from disagg_launch.plan import Plan

# hydra calls `ssh -x HOST COMMAND`; this one stays here and tells the ranks which host was meant
STAY_HERE = '#!/bin/sh\n[ "$1" = -x ] && shift\nMEANT_HOST=$1\nexport MEANT_HOST\nshift\nexec sh -c "$*"\n'


def hosts_of(plan: Plan) -> list[str]:
    """Made-up host names by node number."""
    return [f"gpu{node:03d}" for node in range(plan.node_count)]


def write(plan: Plan, hosts: Sequence[str], folder: Path, names: Sequence[str]) -> None:
    """Write these forms into a folder, under their own file names."""
    for name in names:
        (folder / FORMS[name].file).write_text(FORMS[name].write(plan, hosts))


def open_mpi(plan: Plan, folder: Path, mpirun: Path, form: str) -> dict[int, str]:
    """The host of each rank by Open MPI's mapper, which launches nothing."""
    count = ["-np", str(len(plan.ranks)), "true"]
    asked = {
        "rankfile": ["--hostfile", "hostfile", "--map-by", "rankfile:file=rankfile", "--bind-to", "none", *count],
        "map-by": [*shlex.split((folder / "map-by").read_text()), *count],
        "appfile": ["--bind-to", "none", "--app", "appfile"],
    }[form]
    environ = {**os.environ, "OPAL_PREFIX": str(mpirun.parents[1]), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    argv = [str(mpirun), "--rtos", "donotlaunch", "--display", "map:parseable", *asked]
    said = answer(argv, folder, environ)
    tree = ElementTree.fromstring(said[said.index("<map>") : said.index("</map>")] + "</map>")
    return {int(rank.attrib["id"]): host.attrib["name"] for host in tree.iter("host") for rank in host.iter("rank")}


def mpich(plan: Plan, folder: Path, mpiexec: Path) -> dict[int, str]:
    """The host that hydra started each rank for: real processes, which all stay on this machine."""
    agent = folder / "stay-here"
    agent.write_text(STAY_HERE)
    agent.chmod(0o755)
    argv = [str(mpiexec), "-launcher", "ssh", "-launcher-exec", str(agent), "-f", "machinefile", "-n", str(len(plan.ranks))]
    argv += ["sh", "-c", "echo $PMI_RANK $MEANT_HOST"]
    rows = [line.split() for line in answer(argv, folder).splitlines()]
    return {int(rank): host for rank, host in rows}


def answer(argv: Sequence[str], folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """What a launcher prints. One that cannot start (no port or thread left on a busy machine) has said nothing, and is asked again."""
    for pause_s in (1, 5, 0):
        done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode == 0:
            return done.stdout
        time.sleep(pause_s)
    raise AssertionError(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def disagreements(plan: Plan, hosts: Sequence[str], said: dict[int, str], who: str) -> list[str]:
    """Both rows for each rank that a referee puts elsewhere than the plan."""
    strangers = [f"{who} has rank {rank} on {host}, which is not in the plan" for rank, host in said.items() if rank >= len(plan.ranks)]
    return strangers + [
        f"plan: rank {row.rank} ({row.instance}) on {hosts[row.node]}\n{who}: rank {row.rank} on {said.get(row.rank, 'no host')}"
        for row in plan.ranks
        if said.get(row.rank) != hosts[row.node]
    ]
