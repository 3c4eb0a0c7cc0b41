"""From the plan's GPU slots to the devices that a task was really given. Pure, except for `on_this_node`."""

from __future__ import annotations

import os

from disagg_launch.errors import RankRefused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

DEVICES = "/dev"
PREFIX = "nvidia"


def on_this_node() -> tuple[str, ...]:
    """Ids of the NVIDIA devices that this node (or this container, or this device cgroup) shows as files, in order."""
    names = [name[len(PREFIX) :] for name in os.listdir(DEVICES) if name.startswith(PREFIX)]
    return tuple(sorted((n for n in names if n.isdigit()), key=int))


def given(variable: Optional[str]) -> Optional[tuple[str, ...]]:
    """The entries of CUDA_VISIBLE_DEVICES: numbers, UUIDs or MIG names; () if it hides all; None if it is not set.

    "NoDevFiles" is what Slurm sets for a step that was given none.
    """
    if variable is None:
        return None
    entries = tuple(part.strip() for part in variable.split(",") if part.strip())
    return () if entries in (("-1",), ("NoDevFiles",)) else entries


def visible(
    wanted: Sequence[int], step_slots: Sequence[int], listed: Optional[Sequence[str]], devices: Sequence[str], step_has: Optional[int]
) -> tuple[str, ...]:
    """Device ids for the slots `wanted`, in their order.

    `listed` are the entries of CUDA_VISIBLE_DEVICES (None: not set, then the device files `devices` are looked at).
    `step_has`: how many GPUs the launcher gave the step on this node, None for a launcher that gives no GPUs to steps. If it does,
    the list is the step's own: the k-th slot of `step_slots`, the step's slots on this node, is then the k-th entry; or, where
    each task was given its own of as many as the step needs, all entries are the task's. In every other case slot n is entry n
    of the node. RankRefused GPU_MISSING when there is no such entry.
    """
    if listed is None:
        absent = [slot for slot in wanted if str(slot) not in devices]
        if absent:
            raise _missing(absent, f"its device files are {_names(devices, '/dev/nvidia')} and CUDA_VISIBLE_DEVICES is not set")
        return tuple(str(slot) for slot in wanted)
    if step_has is not None and len(listed) == len(step_slots):
        order = sorted(step_slots)
        return tuple(listed[order.index(slot)] for slot in wanted)
    absent = [slot for slot in wanted if slot >= len(listed)]
    if not absent:
        return tuple(listed[slot] for slot in wanted)
    if step_has is not None and len(listed) == len(wanted) and step_has >= len(step_slots):
        return tuple(listed)
    raise _missing(absent, f"CUDA_VISIBLE_DEVICES gives it {_names(listed, '')}")


def _names(ids: Sequence[str], prefix: str) -> str:
    return ", ".join(prefix + i for i in ids) if ids else "none"


def _missing(slots: Sequence[int], found: str) -> RankRefused:
    which = ", ".join(str(s) for s in slots)
    return RankRefused(
        f"GPU slot {which} is not there: {found}; give the step its GPUs, or plan with fewer gpus_per_node", RankRefused.GPU_MISSING
    )
