"""What the models alone cannot say: rules between keys. Each takes the topology and its source and yields complaints."""

from __future__ import annotations

import importlib
import re
from typing import Any, Callable, Iterator

from disagg_launch.plan import PREFIX, SECTION
from disagg_launch.spec.complaint import WARNING, Complaint, Path, did_you_mean, dotted, found, listed, near
from disagg_launch.spec.inherit import SECTIONS, own_keys
from disagg_launch.spec.maps import Cluster
from disagg_launch.spec.model import Section, Topology
from disagg_launch.spec.source import Source

MOST_RANKS = 1_000_000
UNLIMITED = 1 << 60
OUR_MAPS = ("engine", "cluster", "slurm", "mpi")
# From this likeness on, a key that no engine has is our own key misspelt: running without it would be a surprise.
MISSPELT = 0.85
UNFILLED = "DL007"
"""The lint rule about place holders, of which a file that cannot be used is told too, so that there is one round of complaints."""
PLACEHOLDER = re.compile(r"<[\w .:-]+>")
Rule = Callable[[Topology, Source], Iterator[Complaint]]


def is_external(source: Source) -> bool:
    """Whether the file describes servers that run already: urls or discovery, and none of our maps says how to start any."""
    starts = any(source.values.get(name) is not None for name in OUR_MAPS)
    return not starts and ("disagg_cluster" in source.values or any(source.value(s, "urls") for s in SECTIONS))


def sections(topology: Topology) -> tuple[tuple[str, str, Section], ...]:
    """(key, role, section), context first."""
    return tuple((key, role, getattr(topology, key)) for role, key in SECTION.items())


def check(topology: Topology, source: Source) -> list[Complaint]:
    """What all rules say."""
    return [complaint for rule in RULES for complaint in rule(topology, source)]


def unfilled(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """(path, what to say) of each place holder in a tree of maps and lists: `<partition>`."""
    if isinstance(value, str) and PLACEHOLDER.fullmatch(value):
        yield path, f"found {value}; needed: a value of yours"
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from unfilled(item, (*path, key))


def with_unfilled(wrong: list[Complaint], source: Source) -> list[Complaint]:
    """The complaints about a file that cannot be used, and those about its place holders, of which then nothing else is said."""
    ignored = source.value("lint", "ignore")
    found = [] if isinstance(ignored, list) and UNFILLED in ignored else list(unfilled(source.values))
    paths = {dotted(path) for path, _ in found}
    return [one for one in wrong if one.key not in paths] + [source.complaint(path, text, number=UNFILLED) for path, text in found]


def _sections_there(topology: Topology, source: Source) -> Iterator[Complaint]:
    if is_external(source):
        return
    if not set(SECTIONS) & set(source.values):
        kinds = "a TensorRT-LLM Slurm benchmark config.yaml, an srt-slurm recipe or aiconfigurator's generator_config.yaml"
        yield source.complaint((), f"found neither {' nor '.join(SECTIONS)}; needed: a topology file (`disagg-launch schema`), {kinds}")
        return
    for key in SECTIONS:
        if key not in source.values:
            yield source.complaint((), f"found no {key}; allowed: a map of the role's servers (for none: `{key}: {{num_instances: 0}}`)")
    usable = all(key in source.values and isinstance(source.value(key, default={}), (dict, type(None))) for key in SECTIONS)
    if usable and not any(s.num_instances for _, _, s in sections(topology)):
        yield source.complaint(("generation_servers", "num_instances"), "found 0 in both sections; allowed: at least one instance in all")


def _urls_counted(topology: Topology, source: Source) -> Iterator[Complaint]:
    for key, _, section in sections(topology):
        if section.urls and len(section.urls) != section.num_instances:
            yield source.complaint(
                (key, "num_instances"), f"found {section.num_instances}, but {len(section.urls)} urls; allowed: as many as there are urls"
            )
        for i, url in enumerate(section.urls):
            if url in section.urls[:i]:
                yield source.complaint((key, "urls", i), f"found {url} twice; allowed: each address once in a section")
    both = set(topology.context_servers.urls) & set(topology.generation_servers.urls)
    if both and topology.context_servers.engine_keys != topology.generation_servers.engine_keys:
        text = f"found {listed(sorted(both))} in both sections, whose engine keys differ; allowed: a server of both roles with equal keys"
        yield source.complaint(("generation_servers", "urls"), text)


def _urls_used(topology: Topology, source: Source) -> Iterator[Complaint]:
    if is_external(source):
        return
    for key, _, section in sections(topology):
        if section.urls:
            maps = listed(name for name in OUR_MAPS if name in source.values)
            text = f"not used: the file says how to start servers ({maps}), so the plan gives their addresses"
            yield source.complaint((key, "urls"), text, key=True, severity=WARNING)


def _model_named(topology: Topology, source: Source) -> Iterator[Complaint]:
    if is_external(source) or topology.engine.name == "command":
        return
    for key, _, section in sections(topology):
        written = source.value(key, "model", default=source.value("model"))
        if section.num_instances and written is None and section.command is None and key in source.values:
            yield source.complaint((key, "model"), "is missing; allowed: a path or name, here or at the top level for both sections")


def _commands_there(topology: Topology, source: Source) -> Iterator[Complaint]:
    if topology.router.name == "command" and not topology.router.command:
        yield source.complaint(("router", "command"), "is missing; `name: command` needs one")
    if topology.engine.name != "command" or topology.engine.command:
        return
    if any(section.num_instances and not section.command for _, _, section in sections(topology)):
        yield source.complaint(("engine", "command"), "is missing; `name: command` needs one, here or in each server section")


def _front_door_elsewhere(topology: Topology, source: Source) -> Iterator[Complaint]:
    found = topology.disagg_cluster
    if topology.router.name == "none" and (found is None or found.cluster_uri == "auto"):
        yield source.complaint(
            ("disagg_cluster", "cluster_uri"), "is missing; `router: {name: none}` needs the address at which its workers register"
        )


def _size_bounded(topology: Topology, source: Source) -> Iterator[Complaint]:
    total = sum(section.num_instances * section.size for _, _, section in sections(topology))
    if total > MOST_RANKS:
        yield source.complaint(
            ("context_servers",), f"found {total} ranks in all (instances x TP x PP x CP); allowed: {MOST_RANKS}", key=True
        )


def _pins_fit(topology: Topology, source: Source) -> Iterator[Complaint]:
    names = [f"{PREFIX[role]}{i}" for _, role, section in sections(topology) for i in range(section.num_instances)]
    nodes, gpus = _counts(topology.cluster)
    for name, pin in topology.cluster.pins.items():
        path = ("cluster", "pins", name)
        if name not in names:
            yield source.complaint(path, f"found no instance of that name; allowed: {listed(names)}{did_you_mean(name, names)}", key=True)
        yield from _in_range(source, (*path, "nodes"), pin.nodes, nodes)
        yield from _in_range(source, (*path, "gpus"), pin.gpus, gpus)


def _exclusions_fit(topology: Topology, source: Source) -> Iterator[Complaint]:
    nodes, gpus = _counts(topology.cluster)
    out, path = topology.cluster.exclude, ("cluster", "exclude")
    yield from _in_range(source, (*path, "nodes"), out.nodes, nodes)
    for node, numbers in out.gpus.items():
        if not 0 <= node < nodes:
            yield source.complaint((*path, "gpus", node), f"found node {node}; allowed: {_from_0(nodes)}", key=True)
        yield from _in_range(source, (*path, "gpus", node), numbers, gpus)


def _counts(cluster: Cluster) -> tuple[int, int]:
    """How many nodes there are (UNLIMITED if as many as are needed), and the most GPUs of one."""
    if cluster.groups:
        return sum(group.nodes for group in cluster.groups), max(group.gpus_per_node for group in cluster.groups)
    return cluster.nodes or UNLIMITED, cluster.gpus_per_node


def _in_range(source: Source, path: Path, numbers: tuple[int, ...], limit: int) -> Iterator[Complaint]:
    for i, number in enumerate(numbers):
        if number >= limit:
            yield source.complaint((*path, i), f"found {number}; allowed: {_from_0(limit)}")
        elif number in numbers[:i]:
            yield source.complaint((*path, i), f"found {number} twice; allowed: each number once")


def _from_0(limit: int) -> str:
    return f"0..{'' if limit == UNLIMITED else limit - 1} (numbers count from 0)"


def _cluster_whole(topology: Topology, source: Source) -> Iterator[Complaint]:
    cluster = topology.cluster
    if cluster.policy == "align_domain" and cluster.domain_nodes is None:
        yield source.complaint(("cluster", "domain_nodes"), "is missing; `policy: align_domain` needs the number of nodes in a domain")
    names = [g.name for g in cluster.groups]
    for i, group in enumerate(cluster.groups):
        if group.name in names[:i]:
            yield source.complaint(("cluster", "groups", i, "name"), f"found {group.name!r} twice; allowed: each name once")
    total = sum(g.nodes for g in cluster.groups)
    if cluster.groups and cluster.nodes not in (None, total):
        yield source.complaint(
            ("cluster", "nodes"), f"found {cluster.nodes}, but the groups have {total}; allowed: {total}, or leave it out"
        )


def _autoscale_whole(topology: Topology, source: Source) -> Iterator[Complaint]:
    for key in SECTIONS:
        scaled = getattr(topology.autoscale, key) if topology.autoscale else None
        if scaled is None:
            continue
        if scaled.min > scaled.max:
            yield source.complaint(("autoscale", key, "min"), f"found {scaled.min}, and max is {scaled.max}; allowed: at most max")
        if scaled.queue_s is None and scaled.ttft_s is None:
            yield source.complaint(("autoscale", key), "found no target; needed: queue_s, ttft_s or both", key=True)


def _metadata_there(topology: Topology, source: Source) -> Iterator[Complaint]:
    if topology.engine.metadata_server and topology.metadata_server is None:
        yield source.complaint(("metadata_server",), "is missing; `engine.metadata_server: true` needs this map")


def _engine_keys_known(topology: Topology, source: Source) -> Iterator[Complaint]:
    # by name: a topology file is read before anything is planned, and no room above is needed for it
    engine = importlib.import_module(f"disagg_launch.engines.{topology.engine.name}")
    ours = set(Topology.model_fields)
    theirs = set(Section.model_fields)
    shared = own_keys(source.values)
    for key in (k for k in source.values if k not in shared and k not in theirs):
        yield from _unknown(source, (key,), ours | theirs, engine.KNOWN_KEYS, engine.KNOWN_AS)
    for section in SECTIONS:
        inner = source.value(section, default={})
        for key in (k for k in inner if k not in theirs) if isinstance(inner, dict) else ():
            yield from _unknown(source, (section, key), theirs, engine.KNOWN_KEYS, engine.KNOWN_AS)


def _unknown(source: Source, path: tuple[Any, ...], ours: set[str], known: frozenset[str] | None, engine: str) -> Iterator[Complaint]:
    key = path[-1]
    if isinstance(key, int):
        yield source.complaint(path, f"found {found(key)} as a key; allowed: text", key=True)
    elif key in (known or ()):
        return
    elif source.keys[path].given and (known is not None or near(key, ours)):
        # in a file such a key may be one that we have not heard of; typed for one run it would change nothing, and nobody would see it
        text = f"found an unknown key{did_you_mean(key, ours | (known or set()))}; if engine {engine} has it, write it into the file"
        yield source.complaint(path, text, key=True)
    elif known is None:
        return
    elif meant := near(key, ours, MISSPELT):
        yield source.complaint(path, f"found an unknown key (did you mean {meant}?)", key=True)
    else:
        text = f"engine {engine} is not known to have this key; it is passed on{did_you_mean(key, known | ours)}"
        yield source.complaint(path, text, key=True, severity=WARNING)


RULES: tuple[Rule, ...] = (
    _sections_there,
    _urls_counted,
    _urls_used,
    _model_named,
    _commands_there,
    _front_door_elsewhere,
    _size_bounded,
    _pins_fit,
    _exclusions_fit,
    _cluster_whole,
    _autoscale_whole,
    _metadata_there,
    _engine_keys_known,
)
