"""docs/topology.md: every key of the topology file, from the models, so that it cannot say anything else than they do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from disagg_launch.spec.inherit import SECTIONS
from disagg_launch.spec.schema import schema

INTRODUCTION = """# The topology file

Written by `disagg-launch schema --markdown`; a test holds this file to the models.

A superset of TensorRT-LLM's `disagg_config.yaml`. A key at the top level that is not listed here belongs to the engine and counts for both
server sections; a section may repeat it, but not contradict it. A key in a section that is not listed here belongs to the engine too.
In all other maps an unknown key is an error. null is the same as leaving a key out. Nodes, GPUs and instances are numbered from 0.

Where a topology file is asked for, these files of other tools are taken too, with a warning for each thing that has no counterpart
(`disagg-launch import FILE` prints what they become): TensorRT-LLM's Slurm benchmark `config.yaml`, srt-slurm recipes (either layout), and
aiconfigurator's `generator_config.yaml`. For one run a value is given by `--set KEY=VALUE`: [set.md](set.md).
"""


def markdown() -> str:
    """The page, ending with a newline: the top level, then each map in the order in which it is first met."""
    tree = schema()
    parts = [INTRODUCTION, "## Top level\n", _table(tree, tree["$defs"]), ""]
    for path, name in _maps(tree, ""):
        description = tree["$defs"][name].get("description", "").replace("\n", " ")
        parts += [f"## {path}\n", f"{description}\n", _table(tree["$defs"][name], tree["$defs"]), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def _maps(tree: dict[str, Any], prefix: str, model: str = "") -> Iterator[tuple[str, str]]:
    """(key path, model name) of each map below a model, depth first; both server sections are one."""
    seen = set()
    for key, value in (tree["$defs"][model] if model else tree)["properties"].items():
        for name in _models(value):
            path = " and ".join(f"`{s}`" for s in SECTIONS) if key in SECTIONS else f"`{prefix}{key}{_brackets(value)}`"
            if name not in seen:
                seen.add(name)
                yield path, name
                yield from _maps(tree, f"{prefix}{key}{_brackets(value)}.", name)


def _models(value: Any) -> Iterator[str]:
    """Names of the models that a property's schema refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for inner in value.values():
            yield from _models(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _models(inner)


def _brackets(value: dict[str, Any]) -> str:
    return "[]" if value.get("type") == "array" else ".NAME" if value.get("type") == "object" else ""


def _table(model: dict[str, Any], maps: dict[str, Any]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in model["properties"].items():
        inner = next(_models(value), "")
        meaning = value.get("description") or (maps[inner].get("description", "").partition("\n")[0] if inner else "")
        meaning = meaning.replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(value)} | {_default(value)} | {meaning} |")
    return "\n".join(lines)


def _kind(value: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "anyOf" in value:
        return " or ".join(_kind(one) for one in value["anyOf"] if one.get("type") != "null")
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if "$ref" in value:
        return "map"
    kind = value.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(value.get('items', {}))}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"map to {_kind(inner)}" if isinstance(inner, dict) and inner else "map"
    words = {"string": "text", "boolean": "true, false"}
    name = " or ".join(words.get(one, str(one)) for one in (kind if isinstance(kind, list) else [kind]))
    low, high = value.get("minimum", value.get("exclusiveMinimum")), value.get("maximum")
    return f"{name} {low}..{high}" if low is not None and high is not None else name


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if default is None or isinstance(default, (dict, list)):
        return ""
    return f"`{json.dumps(default) if default in (True, False, '') else default}`"
