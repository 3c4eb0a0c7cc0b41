"""The router's configuration file: TensorRT-LLM's disagg_config.yaml, plus one map of our own, `front_door`.

From upstream's keys the router reads `hostname`, `port`, `max_retries`, `model`, `schedule_style`, `perf_metrics_max_requests`,
`otlp_config.otlp_traces_endpoint` (OTLP over HTTP: http://collector:4318/v1/traces),
`conditional_disagg_config.max_local_prefill_length`, `disagg_cluster` (with it, urls are ignored), and of `context_servers` and
`generation_servers` `urls`, `num_instances` and `router` (`type` and its arguments).
Every other key is the engines' business and is passed over. The keys of `front_door`
are the fields of `FrontDoor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Mapping

import yaml

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime import metadata
from disagg_launch.runtime.cluster import Cluster
from disagg_launch.runtime.metadata import Metadata

POLICIES = ("round_robin", "load_balancing", "kv_cache_aware", "conversation", "power_of_two")
DIALECTS = ("trtllm", "vllm", "sglang")
SCHEDULES = ("context_first", "generation_first")


@dataclass(frozen=True)
class FrontDoor:
    """Limits, keys and habits of the router itself. Times in seconds, sizes in bytes; 0 means no limit unless said otherwise."""

    dialect: str = "trtllm"  # how the workers are spoken to: trtllm (also the reference engine), vllm, sglang
    processes: int = 1  # router processes on the one port; each keeps its own counters
    # who may come in
    api_keys_file: str = ""  # one key per line; read again when the file changes
    api_keys_env: str = ""  # name of an environment variable with keys, separated by commas
    admin_token_file: str = ""  # the token of /admin/*; without it there is no admin interface
    admin_loopback_only: bool = True  # whether /admin/* answers only to this machine
    admin_port: int = 0  # a port of its own for /admin/*, and for registering workers if cluster_uri names it; 0: the one port
    cluster_token_file: str = ""  # the token that workers register with; needed when others can reach the port
    cluster_open: bool = False  # whether workers register without a token, although others can reach the port
    tls_cert_file: str = ""  # with tls_key_file: clients come by TLS, and the admin port or plain_address speaks plain HTTP
    tls_key_file: str = ""
    plain_address: str = ""  # "host:port" at which the launcher and registering workers are answered, though clients come by TLS
    # what may come in
    max_body_bytes: int = 64 << 20
    max_header_bytes: int = 32 << 10
    header_timeout_s: float = 15.0  # from the first byte of a request to the end of its headers and body
    # how much at once
    max_in_flight_per_worker: int = 0
    max_queue: int = 4096  # requests waiting for a worker; one more is answered 429
    queue_timeout_s: float = 30.0  # a request that waited longer is answered 503
    # when workers fail
    request_timeout_s: float = 180.0  # one call to a worker: to its first byte, and for a whole answer that is not streamed
    stall_timeout_s: float = 60.0  # longest pause inside a stream
    connect_timeout_s: float = 2.0
    health_interval_s: float = 2.0
    health_timeout_s: float = 2.0
    resume: bool = True  # go on elsewhere when a generation worker dies in mid-stream
    # the page at /ui
    ui: bool = True
    ui_token_file: str = ""  # the token for looking at it from elsewhere; made if it is not there. [run_folder/state/ui-token]
    run_folder: str = ""  # of the deployment, for what the router does not know by itself: ranks, GPUs, stages, logs
    # what is written down
    access_log: str = ""  # a file, or "-" for standard output: one JSON object per request


@dataclass(frozen=True)
class Role:
    """One role's servers ("host:port") and the policy that chooses among them."""

    urls: tuple[str, ...]
    policy: str = "round_robin"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Everything the router was told. `max_local_prefill` is in tokens, None when conditional disaggregation is off."""

    host: str
    port: int
    roles: Mapping[str, Role]
    model: str = ""
    max_retries: int = 1
    schedule: str = "context_first"
    max_local_prefill: int | None = None
    perf_metrics_max_requests: int = 0
    otlp_traces_endpoint: str = ""
    front_door: FrontDoor = field(default_factory=FrontDoor)
    cluster: Cluster | None = None
    metadata: Metadata | None = None

    @property
    def discovers(self) -> bool:
        """Whether workers make themselves known, instead of standing in the file."""
        return self.cluster is not None or self.metadata is not None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each place to listen, that for clients first."""
        door = self.front_door
        host, _, port = door.plain_address.rpartition(":")
        plain = [(host, int(port))] if port else []
        return [(self.host, self.port), *([(self.host, door.admin_port)] if door.admin_port else plain)]

    @property
    def storage_inside(self) -> bool:
        """Whether workers register at the admin port only: cluster_uri says so."""
        port = self.front_door.admin_port
        return bool(port and self.cluster and self.cluster.served and self.cluster.uri.rstrip("/").endswith(f":{port}"))

    def minimal(self, role: str) -> int:
        """How many servers of a role there must be."""
        return self.cluster.minimal(role) if self.cluster else 1


def load(path: Path) -> Config:
    """The configuration in a YAML file. BadInput with every complaint at once."""
    return parse(_read(path), str(path))


def load_metadata(path: Path) -> Metadata:
    """The metadata server in a metadata_config.yaml. BadInput with every complaint at once."""
    raw = _read(path)
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: found {type(raw).__name__}, a map with server_type, hostname, port is needed")
    return metadata.parse(raw)


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as wrong:
        raise BadInput(f"{path}: {wrong.strerror}") from None
    except yaml.YAMLError as wrong:
        raise BadInput(f"{path}: not YAML: {wrong}") from None


def parse(raw: Any, where: str = "config") -> Config:
    """The configuration in plain values, as a YAML file gives them. BadInput with every complaint at once."""
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: found {type(raw).__name__}, a map with hostname, port, context_servers, ... is needed")
    said: list[str] = []
    conditional = _of(raw, "conditional_disagg_config", dict, None, said)
    otlp = _of(raw, "otlp_config", dict, {}, said)
    config = Config(
        host=_of(raw, "hostname", str, "localhost", said),
        port=_of(raw, "port", int, 8000, said),
        roles={
            CONTEXT: _role(_of(raw, "context_servers", dict, {}, said), "context_servers", said),
            GENERATION: _role(_of(raw, "generation_servers", dict, {}, said), "generation_servers", said),
        },
        model=_of(raw, "model", str, "", said),
        max_retries=_of(raw, "max_retries", int, 1, said),
        schedule=_choice(_of(raw, "schedule_style", str, SCHEDULES[0], said), SCHEDULES, "schedule_style", said),
        max_local_prefill=None if conditional is None else _of(conditional, "max_local_prefill_length", int, 0, said),
        perf_metrics_max_requests=_of(raw, "perf_metrics_max_requests", int, 0, said),
        otlp_traces_endpoint=_of(otlp, "otlp_traces_endpoint", str, "", said, "otlp_config"),
        front_door=_front_door(_of(raw, "front_door", dict, {}, said), said),
        cluster=_cluster(raw.get("disagg_cluster"), said),
    )
    cluster = config.cluster
    if cluster is not None:
        config = replace(config, roles={name: replace(role, urls=()) for name, role in config.roles.items()})
        if cluster.served and config.front_door.processes > 1:
            said.append("front_door.processes: only one process can keep the workers' entries; use an etcd:// cluster_uri with more")
    said.extend(_conflicts(config))
    if said:
        raise BadInput("\n".join(f"{where}: {one}" for one in said))
    return config


def _conflicts(config: Config) -> Iterator[str]:
    """What is wrong with keys that are right by themselves."""
    dialect = config.front_door.dialect
    if config.max_local_prefill is not None and config.roles[GENERATION].policy != "kv_cache_aware":
        yield "conditional_disagg_config: needs generation_servers.router.type: kv_cache_aware, to know what is cached where"
    if config.max_local_prefill is not None and dialect == "sglang":
        yield "conditional_disagg_config: SGLang's workers are always both asked; leave it out, or front_door.dialect: sglang"
    if config.schedule == "generation_first" and dialect == "vllm":
        yield "schedule_style: generation_first is not possible with vLLM's workers, who learn from the first hop where KV is; leave it out"
    if config.otlp_traces_endpoint and not config.otlp_traces_endpoint.startswith(("http://", "https://")):
        yield "otlp_config.otlp_traces_endpoint: OTLP over HTTP is needed, as in http://collector:4318/v1/traces"
    if len({port for _, port in config.addresses}) < len(config.addresses):
        key = "admin_port" if config.front_door.admin_port else "plain_address"
        yield f"front_door.{key}: found {config.port}, which is the port of the front door itself; another one is needed"


def _cluster(raw: Any, said: list[str]) -> Cluster | None:
    try:
        return clusters.parse(raw)
    except BadInput as wrong:
        said += str(wrong).splitlines()
        return None


def _role(raw: dict[str, Any], key: str, said: list[str]) -> Role:
    urls = _of(raw, "urls", list, [], said, key)
    said.extend(f'{key}.urls: found {url!r}, needed "host:port"' for url in urls if not is_url(url))
    count = _of(raw, "num_instances", int, len(urls), said, key)
    if urls and count != len(urls):
        said.append(f"{key}: num_instances is {count}, but there are {len(urls)} urls")
    router = _of(raw, "router", dict, {}, said, key)
    policy = _choice(str(router.get("type", POLICIES[0])).lower(), POLICIES, f"{key}.router.type", said)
    return Role(tuple(map(str, urls)), policy, {k: v for k, v in router.items() if k != "type"})


def is_url(url: Any) -> bool:
    """Whether it is "host:port"."""
    host, _, port = str(url).rpartition(":")
    return isinstance(url, str) and bool(host) and "/" not in host and port.isdigit() and 0 < int(port) < 65536


def _front_door(raw: dict[str, Any], said: list[str]) -> FrontDoor:
    known = {f.name: f for f in fields(FrontDoor)}
    values = {}
    for key, value in raw.items():
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            said.append(f"front_door.{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        values[key] = _of(raw, key, type(known[key].default), known[key].default, said, "front_door")
        if isinstance(value, (int, float)) and value < 0:
            said.append(f"front_door.{key}: found {value}, 0 or more is needed")
    door = FrontDoor(**values)
    _choice(door.dialect, DIALECTS, "front_door.dialect", said)
    if bool(door.tls_cert_file) != bool(door.tls_key_file):
        said.append("front_door: tls_cert_file and tls_key_file go together")
    if door.plain_address and (door.admin_port or not door.tls_cert_file or not is_url(door.plain_address)):
        said.append(f'front_door.plain_address: found {door.plain_address!r}, needed "host:port", with TLS and without an admin_port')
        return replace(door, plain_address="")
    return door


def _choice(value: str, allowed: tuple[str, ...], key: str, said: list[str]) -> str:
    if value not in allowed:
        said.append(f"{key}: found {value!r}, allowed: {', '.join(allowed)}")
        return allowed[0]
    return value


def _of(raw: Mapping[str, Any], key: str, kind: type, default: Any, said: list[str], where: str = "") -> Any:
    value = raw.get(key)
    if value is None:
        return default
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        said.append(f"{where + '.' if where else ''}{key}: found {value!r}, needed {kind.__name__}")
        return default
    return value
