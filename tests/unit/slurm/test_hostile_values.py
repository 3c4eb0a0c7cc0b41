"""Whatever a topology file holds is carried exactly or refused by name; nothing of it is ever executed.

The scripts really run, with programs on PATH that write down how they were called.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_scripts import BASE, scripts

from disagg_launch.errors import BadInput
from disagg_launch.files import File

RECORDER = """#!/bin/bash
case "$2" in hosts) echo h0; exit;; address) echo 10.0.0.1; exit;; esac
printf '%s\\0' "${0##*/}" "$@" >>"$RECORD"
"""
HOSTILE = (
    "two words",
    "it's",
    'say "x"',
    "$(touch canary)",
    "`touch canary`",
    "a\n#SBATCH --wrap=touch",
    "-rf",
    "--wrap=touch canary",
    "grüße 世界",
    "back\\slash",
    "$HOME",
    "a#b",
    "{{ 7 * 7 }}",
)
WORDS = ("job_name", "account", "partition", "qos", "reservation", "constraint", "nodelist", "exclude_hosts", "time", "comment")
WORDS += ("mail_type", "mail_user", "dependency", "array", "memory", "switches", "gpu_type", "mpi", "interface", "site")
CONTAINER = ("container_image", "container_name", "container_workdir")
LISTS = ("extra_args", "srun_args", "container_mounts")
FIELDS = (*(("slurm", name) for name in (*WORDS, *CONTAINER, *LISTS)), ("engine", "python"), ("", "name"))


def topology(section: str, name: str, value: str) -> str:
    """A topology with one value somewhere, and a container to carry the values that need one."""
    spec: dict[str, Any] = {**yaml.safe_load(BASE), "slurm": {"container": "pyxis", "container_image": "/image"}}
    if section == "mpi":
        spec["slurm"]["mode"] = "single-mpirun"
    held = spec.setdefault(section, {}) if section else spec
    held[name] = [value] if name in LISTS else value
    return yaml.safe_dump(spec, allow_unicode=False)


def called(files: tuple[File, ...], folder: Path, program: str) -> list[str]:
    """Every word of every command that the scripts ran, and their #SBATCH values. `program` is one more that exists."""
    for one in files:
        path = folder / one.path
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(one.text))
    (folder / "runtime.pyz").touch()
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("srun", "python3", program):
        (folder / "bin" / name).write_text(RECORDER)
        (folder / "bin" / name).chmod(0o755)
    environ = {"PATH": f"{folder}/bin:/usr/bin:/bin", "RECORD": str(folder / "record"), "HOME": "/root", "SLURM_JOB_NUM_NODES": "4"}
    for one in files:
        # one step stands for all
        if one.path in ("job.sbatch", "steps/ctx0.sh", "steps/world.sh", "steps/router.sh"):
            subprocess.run(["bash", one.path, "argument"], cwd=folder, env=environ, capture_output=True, check=False, timeout=20)
    record = folder / "record"
    words = record.read_text().split("\0") if record.exists() else []
    job = next(str(one.text) for one in files if one.path == "job.sbatch")
    return words + [line.removeprefix("#SBATCH ") for line in job.splitlines() if line.startswith("#SBATCH ")]


def check(section: str, name: str, value: str, folder: Path) -> str:
    """What became of the value: "refused" or "carried"; AssertionError for anything else."""
    try:
        files = scripts(topology(section, name, value))
    except BadInput as refused:
        assert name in str(refused), refused
        return "refused"
    words = called(files, folder, value if name == "command" else "mpiexec")
    assert not list(folder.rglob("canary"))
    job = next(str(one.text) for one in files if one.path == "job.sbatch")
    assert "\n#SBATCH --wrap" not in job
    ends = (f"={value}", f",{value}", f'="{value}"')
    # a GPU's type stands before their count
    assert any(word == value or word.endswith(ends) or f"={value}:" in word for word in words), words
    return "carried"


@pytest.mark.parametrize(("section", "name"), [*FIELDS, ("mpi", "command")], ids=lambda one: one)
def test_a_hostile_value_is_carried_or_refused(section: str, name: str, tmp_path: Path) -> None:
    for number, value in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(section, name, value, folder)


@pytest.mark.parametrize(("section", "name"), [("slurm", n) for n in (*CONTAINER, "srun_args")], ids=lambda one: one)
def test_what_srun_can_carry_is_carried(section: str, name: str, tmp_path: Path) -> None:
    """Quoting is not a reason to refuse: what reaches srun as one word may hold anything that one line can."""
    for number, value in enumerate(v for v in HOSTILE if "\n" not in v):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert check(section, name, value, folder) == "carried"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=st.text(min_size=1, max_size=30))
def test_any_value_is_carried_or_refused(field: tuple[str, str], value: str, tmp_path: Path) -> None:
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    check(*field, value, folder)
