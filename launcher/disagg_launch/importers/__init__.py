"""Files of other tools as topology files: found out by their keys, converted with a comment for all that has no counterpart.

A kind is a module with `matches(values)` and `convert(draft)`. TensorRT-LLM's disagg_config.yaml needs none: our form contains it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Optional

from disagg_launch.importers import aiconfigurator, srt_slurm, trtllm_slurm
from disagg_launch.importers.draft import Draft
from disagg_launch.spec.source import Source

KINDS: tuple[ModuleType, ...] = (trtllm_slurm, srt_slurm, aiconfigurator)


def imported(source: Source) -> Optional[Draft]:
    """The draft of a topology, if the source is another tool's file; None if it is in our form. BadTopology if it cannot be one."""
    for kind in KINDS:
        if kind.matches(source.values):
            draft = Draft(source, getattr(kind, "KIND", ""))
            kind.convert(draft)
            return draft
    return None
