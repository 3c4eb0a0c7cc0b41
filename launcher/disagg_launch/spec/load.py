"""A topology file -> Spec, or all that is wrong with it at once."""

from __future__ import annotations

import copy
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

from pydantic import ConfigDict, Field, ValidationError

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.spec.checks import check, is_external, with_unfilled
from disagg_launch.spec.complaint import ERROR, BadTopology, Complaint
from disagg_launch.spec.explain import explain
from disagg_launch.spec.inherit import SECTIONS, inherit
from disagg_launch.spec.model import Section, Topology
from disagg_launch.spec.source import MOST_CHARACTERS, Source, parse
from disagg_launch.spec.written import as_written

if TYPE_CHECKING:
    from disagg_launch.importers.draft import Draft

# Upstream's own keys that the front door's configuration takes over unchanged.
ROUTER_KEYS = (
    "max_retries", "perf_metrics_max_requests", "conditional_disagg_config", "disagg_cluster", "otlp_config", "node_id", "schedule_style",
    "allow_request_chat_template", "server_keep_alive_timeout", "gen_strip_message_history", "gen_tokids_ctxbytes", "num_workers",
    "disagg_coordinator_url",
)  # fmt: skip
MOST_ERRORS = 1000
# (map, spelling in some documents, the code's spelling)
SPELLINGS = (
    ("disagg_cluster", "inactive_interval_sec", "inactive_timeout_sec"),
    ("metadata_server", "refersh_interval", "refresh_interval"),
)


class Spec(Topology):
    """A checked topology: sections hold what they inherit, `model` and `env` too.

    `external`: it describes servers that run already. `warnings` are Complaints that stop nobody. `source` knows the places in the file.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    external: bool = False
    warnings: tuple[Complaint, ...] = ()
    source: Source = Field(default_factory=lambda: Source(""), repr=False, exclude=True)

    def section(self, role: str) -> Section:
        """The servers of a role, "context" or "generation". KeyError if there is no such role."""
        return {CONTEXT: self.context_servers, GENERATION: self.generation_servers}[role]

    @property
    def router_keys(self) -> dict[str, Any]:
        """Those of upstream's front-door keys (ROUTER_KEYS) that the file gives, as plain values."""
        given = self.model_dump(mode="json", include=set(ROUTER_KEYS) & self.model_fields_set)
        return {key: given[key] for key in ROUTER_KEYS if given.get(key) is not None}


def load(path: Union[str, os.PathLike[str]], options: Sequence[str] = ()) -> Spec:
    """The checked topology in a file. BadInput with every complaint, one `file:line:column: key: text` per line, sorted.

    `options`: KEY=VALUE, values that stand in for the file's; a complaint about one names it in place of the file.
    """
    return loads(read(path), str(path), options)


def read(path: Union[str, os.PathLike[str]]) -> str:
    """A file's text. BadInput if it cannot be read, is not UTF-8, or is too large to be a topology."""
    file = pathlib.Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(4 * MOST_CHARACTERS + 1)
        return data.decode("utf-8-sig")
    except OSError as wrong:
        raise BadInput(f"{file}: {wrong.strerror or wrong}; a readable topology file is needed") from None
    except UnicodeDecodeError as wrong:
        line = data[: wrong.start].count(b"\n") + 1
        column = wrong.start - data.rfind(b"\n", 0, wrong.start)
        raise BadInput(
            f"{file}:{line}:{column}: found the byte 0x{data[wrong.start]:02x}, which is not UTF-8; save the file as UTF-8"
        ) from None


def loads(text: str, file: str = "topology.yaml", options: Sequence[str] = ()) -> Spec:
    """As `load`, from a text; `file` is the name in messages. Another tool's file is converted, with a warning for what is left out."""
    source, wrong, draft = _parsed(text, file)
    if draft is not None:
        source, refused = draft.as_source(options)
        wrong = wrong + draft.wrong + draft.warnings() + refused
    elif options:
        source, wrong = parse(text, file, options)
    return check_source(source, wrong)


def convert(text: str, file: str) -> str:
    """The topology file that another tool's file amounts to; a topology file as it is."""
    _, wrong, draft = _parsed(text, file)
    if wrong or (draft and draft.wrong):
        raise BadTopology(wrong + (draft.wrong if draft else []))
    return text if draft is None else draft.text()


def _parsed(text: str, file: str) -> tuple[Source, list[Complaint], Optional[Draft]]:
    # here, because importers are written in terms of this package
    from disagg_launch import importers

    source, wrong = parse(text, file)
    if not source.values:
        raise BadTopology(wrong or [source.complaint((), "found an empty map; allowed: a topology, see `disagg-launch schema`")])
    return source, wrong, importers.imported(source)


def check_source(source: Source, wrong: list[Complaint]) -> Spec:
    """The Spec of parsed values; `wrong` is what was wrong with them as YAML."""
    values, conflicts = inherit(source)
    values = as_written(Topology, copy.deepcopy(values), source)
    wrong = wrong + conflicts + _spelt(values, source)
    _fill_in(values)
    topology, refused = _validated(values, source)
    wrong += refused
    complained = {one.key for one in wrong}
    wrong += [one for one in check(topology, source) if one.key not in complained] if topology else []
    if topology is None or any(one.severity == ERROR for one in wrong):
        raise BadTopology(with_unfilled(wrong, source))
    return _spec(topology, source, tuple(sorted(set(wrong))))


def _spec(topology: Topology, source: Source, warnings: tuple[Complaint, ...]) -> Spec:
    fields = {name: getattr(topology, name) for name in topology.model_fields_set}
    for key in SECTIONS:
        section: Section = getattr(topology, key)
        fields[key] = section.model_copy(update={"env": {**topology.env, **section.env}})
    fields["model"] = topology.model or topology.context_servers.model or topology.generation_servers.model
    return Spec.model_construct(set(fields), **fields, external=is_external(source), warnings=warnings, source=source)


def _validated(values: dict[Any, Any], source: Source) -> tuple[Optional[Topology], list[Complaint]]:
    """The topology, made without what is wrong in it so that rules between keys can be asked too, and what is wrong."""
    topology, error = _attempt(values)
    wrong: list[Complaint] = []
    while error is not None and len(wrong) < MOST_ERRORS:
        wrong += explain(error, source, Topology)
        for one in error.errors(include_url=False):
            is_parent = one["type"] == "missing" or one["loc"][-1:] == ("[key]",)
            _drop(values, one["loc"][:-1] if is_parent else one["loc"])
        topology, error = _attempt(values)
    return topology, wrong


def _attempt(values: dict[Any, Any]) -> tuple[Optional[Topology], Optional[ValidationError]]:
    try:
        return Topology.model_validate(values), None
    except ValidationError as error:
        return None, error


def _drop(values: Any, path: tuple[Any, ...]) -> None:
    """Take what stands at `path` out; of a list everything, because the indices of further errors must stay right."""
    for part in path[:-1]:
        inside = dict(enumerate(values)) if isinstance(values, list) else values
        values = inside.get(part) if isinstance(inside, dict) else None
    if isinstance(values, dict):
        values.pop(path[-1], None)
    elif isinstance(values, list):
        values.clear()


def _spelt(values: dict[Any, Any], source: Source) -> list[Complaint]:
    """Bring both spellings of a key to one; a complaint if both are there and differ."""
    wrong = []
    for name, other, right in SPELLINGS:
        inner = values.get(name)
        if isinstance(inner, dict) and other in inner:
            values[name] = inner = dict(inner)
            value = inner.pop(other)
            if inner.setdefault(right, value) != value:
                wrong.append(
                    source.complaint((name, other), f"contradicts {right}, which is the same thing; allowed: one of them", key=True)
                )
    return wrong


def _fill_in(values: dict[Any, Any]) -> None:
    """Leave out what is null, at the top and in the maps where upstream does so; count urls where no number is given."""
    for key in [k for k, v in values.items() if v is None and k in Topology.model_fields]:
        del values[key]
    cluster = values.get("disagg_cluster")
    if isinstance(cluster, dict):
        values["disagg_cluster"] = {k: v for k, v in cluster.items() if v is not None}
    for key in SECTIONS:
        section = values.get(key)
        if isinstance(section, dict):
            values[key] = section = {k: v for k, v in section.items() if v is not None or k not in Section.model_fields}
            if isinstance(section.get("urls"), list):
                section.setdefault("num_instances", len(section["urls"]))
