"""The two server sections with what they inherit from the top level, by TensorRT-LLM's rule for disagg_config.yaml.

A key at the top level that is not the front door's or ours counts for both sections. A section may repeat it, but not contradict it.
"""

from __future__ import annotations

from typing import Any

from disagg_launch.plan import SECTION
from disagg_launch.spec.complaint import Complaint, found
from disagg_launch.spec.model import Topology
from disagg_launch.spec.source import Source

SECTIONS = tuple(SECTION.values())


def own_keys(values: dict[Any, Any]) -> set[str]:
    """The top-level keys that are not inherited. A `router` with `type` is upstream's, for both sections; ours has a `name`."""
    router = values.get("router")
    upstreams = isinstance(router, dict) and "type" in router
    return set(Topology.model_fields) - {"model"} - ({"router"} if upstreams else set())


def inherit(source: Source) -> tuple[dict[Any, Any], list[Complaint]]:
    """The file's values with both sections filled, and a complaint for each key that a section contradicts."""
    own = own_keys(source.values)
    shared = {key: value for key, value in source.values.items() if key not in own}
    out = {key: value for key, value in source.values.items() if key in own or key == "model"}
    wrong: list[Complaint] = []
    for name in SECTIONS:
        if name not in out:
            continue
        section = {} if out[name] is None else out[name]
        if isinstance(section, dict):
            wrong += [
                _conflict(source, name, key, shared[key]) for key in section if key in shared and not _same(section[key], shared[key])
            ]
            section = {**shared, **section}
        out[name] = section
    return out, wrong


def _conflict(source: Source, section: str, key: Any, shared: Any) -> Complaint:
    there = source.at((key,), key=True)
    here = found(source.value(section, key))
    return source.complaint(
        (section, key),
        f"found {here}, but the top level ({there}) has {found(shared)} for both sections; allowed: the same value, "
        "or the key in each section and not at the top level",
    )


def _same(one: Any, other: Any) -> bool:
    """Equal, and 1 is not true."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
