"""From the plan's GPU slots to the devices that a task was really given. Pure, except for `on_this_node`."""

from __future__ import annotations

import glob
import re
from typing import Optional, Sequence, Tuple

from disagg_launch.errors import RankRefused


def on_this_node() -> Tuple[str, ...]:
    """Ids of the NVIDIA devices that this node (or this container, or this device cgroup) shows as files, in order."""
    numbers = [int(m.group(1)) for m in (re.match(r"/dev/nvidia(\d+)$", path) for path in glob.glob("/dev/nvidia*")) if m]
    return tuple(str(n) for n in sorted(numbers))


def given(variable: Optional[str]) -> Optional[Tuple[str, ...]]:
    """The entries of CUDA_VISIBLE_DEVICES: numbers, UUIDs or MIG names; () if it hides all; None if it is not set.

    "NoDevFiles" is what Slurm sets for a step that was given none.
    """
    if variable is None:
        return None
    entries = tuple(part.strip() for part in variable.split(",") if part.strip())
    return () if entries in (("-1",), ("NoDevFiles",)) else entries


def visible(
    wanted: Sequence[int], step_slots: Sequence[int], listed: Optional[Sequence[str]], devices: Sequence[str], per_step: bool
) -> Tuple[str, ...]:
    """Device ids for the slots `wanted`, in their order.

    `listed` are the entries of CUDA_VISIBLE_DEVICES (None: not set, then the device files `devices` are looked at).
    A launcher that hands GPUs to steps (`per_step`) lists only this step's: the k-th slot of `step_slots`, the step's
    slots on this node, is then the k-th entry; or, where each task was given its own, all entries are the task's.
    In every other case slot n is entry n of the node. RankRefused GPU_MISSING when there is no such entry.
    """
    if listed is None:
        absent = [slot for slot in wanted if str(slot) not in devices]
        if absent:
            raise _missing(absent, f"its device files are {_names(devices, '/dev/nvidia')} and CUDA_VISIBLE_DEVICES is not set")
        return tuple(str(slot) for slot in wanted)
    if per_step and len(listed) == len(step_slots):
        order = sorted(step_slots)
        return tuple(listed[order.index(slot)] for slot in wanted)
    absent = [slot for slot in wanted if slot >= len(listed)]
    if not absent:
        return tuple(listed[slot] for slot in wanted)
    if per_step and len(listed) == len(wanted):
        return tuple(listed)
    raise _missing(absent, f"CUDA_VISIBLE_DEVICES gives it {_names(listed, '')}")


def _names(ids: Sequence[str], prefix: str) -> str:
    return ", ".join(prefix + i for i in ids) if ids else "none"


def _missing(slots: Sequence[int], found: str) -> RankRefused:
    which = ", ".join(str(s) for s in slots)
    return RankRefused(
        f"GPU slot {which} is not there: {found}; give the step its GPUs, or plan with fewer gpus_per_node", RankRefused.GPU_MISSING
    )
