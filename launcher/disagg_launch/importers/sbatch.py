"""sbatch options as keys of our map `slurm`; what has no key goes into `extra_args`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from disagg_launch.importers.draft import Draft
from disagg_launch.spec.complaint import Path

TEXTS = {
    "account": "account", "array": "array", "comment": "comment", "constraint": "constraint", "dependency": "dependency",
    "exclude": "exclude_hosts", "job-name": "job_name", "mail-type": "mail_type", "mail-user": "mail_user", "mem": "memory",
    "nodelist": "nodelist", "partition": "partition", "qos": "qos", "reservation": "reservation", "switches": "switches", "time": "time",
}  # fmt: skip
NUMBERS = {"cpus-per-task": "cpus_per_task", "segment": "segment"}
GPUS = re.compile(r"gpu(?::[^:]+)?:\d+")


def take(draft: Draft, old: Path, options: Iterable[tuple[str, str]]) -> None:
    """Put each (long option without dashes, value or "") of the source's `old` where it belongs, and take `old`."""
    draft.taken.add(old)
    rest = []
    for name, value in options:
        if name in TEXTS and value:
            new: str = TEXTS[name]
            made: object = value
        elif name in NUMBERS and value.isascii() and value.isdigit():
            new, made = NUMBERS[name], int(value)
        elif name == "exclusive" and not value:
            new, made = "exclusive", True
        elif name == "gres" and GPUS.fullmatch(value):
            draft.put(("slurm", "gpus_flag"), "gres", f"--gres={value}; the number is taken from the plan")
            continue
        else:
            rest.append(f"--{name}={value}" if value else f"--{name}")
            continue
        draft.put(("slurm", new), made)
        draft.origin["slurm", new] = old
    if rest:
        draft.put(("slurm", "extra_args"), rest)
        draft.origin["slurm", "extra_args"] = old
