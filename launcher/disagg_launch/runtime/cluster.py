"""What workers and front door agree on for service discovery: the map `disagg_cluster`, the keys, and one worker's entry.

The words and spellings are TensorRT-LLM's, so that its workers and its router can stand on either side.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION, SECTION

ROLE_IDS = {CONTEXT: 0, GENERATION: 1}
ROLE_WORDS = {CONTEXT: "CONTEXT", GENERATION: "GENERATION"}
SPELLINGS = {"inactive_interval_sec": "inactive_timeout_sec"}
TOKEN_FILE = "DISAGG_CLUSTER_TOKEN_FILE"  # noqa: S105  (a variable that names a file)
ANYWHERE = ("", "0.0.0.0", "::", "[::]")  # noqa: S104  (no address that anybody could be told)
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


@dataclass(frozen=True)
class Cluster:
    """The map `disagg_cluster`. `uri` is http://host:port or a comma list of etcd://host:port; `minimal` servers by role; seconds."""

    uri: str
    name: str = ""
    minimal_context: int = 1
    minimal_generation: int = 1
    heartbeat_s: float = 5.0
    inactive_s: float = 10.0

    @property
    def prefix(self) -> str:
        """What every worker's key begins with."""
        return f"/trtllm-disagg/{self.name}/workers"

    @property
    def served(self) -> bool:
        """Whether the front door itself keeps the entries (http), instead of etcd."""
        return not self.uri.startswith("etcd://")

    @property
    def address(self) -> Tuple[str, int]:
        """(host, port) of the storage; of etcd, the first server."""
        parts = urlsplit(self.uri if self.served else f"//{endpoints(self.uri)[0]}")
        return parts.hostname or "", parts.port or 0

    def minimal(self, role: str) -> int:
        """How many servers of a role there must be."""
        return self.minimal_context if role == CONTEXT else self.minimal_generation


@dataclass(frozen=True)
class Member:
    """One worker's entry. `role` is "context" or "generation"; in JSON it is TensorRT-LLM's number."""

    worker_id: str
    host: str
    port: int
    role: str

    @property
    def url(self) -> str:
        """ "host:port", with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_json(self) -> str:
        """The entry's value."""
        return json.dumps({"worker_id": self.worker_id, "host": self.host, "port": self.port, "role": ROLE_IDS[self.role]})


def member(text: str) -> Member:
    """The worker that an entry's value describes. ValueError if it is not one."""
    raw = json.loads(text)
    try:
        role = next(word for word, number in ROLE_IDS.items() if number == raw["role"])
        host, port = raw["host"], raw["port"]
        worker_id = str(raw["worker_id"])
    except (KeyError, TypeError, StopIteration) as wrong:
        raise ValueError(f"no worker's entry ({wrong!r}): {text[:200]}") from None
    if not isinstance(host, str) or not _is_host(host) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"no address of a worker: {text[:200]}")
    return Member(worker_id, host.strip("[]"), port, role)


def new_member(role: str, host: str, port: int) -> Member:
    """The entry of a worker that starts now, under an id that nobody had before."""
    now_ms = int(time.time() * 1000)  # only to be unlike others: nothing is ever computed from it
    number = random.randrange(1000)  # noqa: S311
    return Member(f"{ROLE_WORDS[role]}-{host}:{port}-{now_ms}-{os.getpid()}-{number:03d}", host, port, role)


def role_of(word: str) -> str:
    """The role that `--server_role` names, in any case. BadInput for another word."""
    found = next((role for role, name in ROLE_WORDS.items() if name == word.upper()), None)
    if found is None:
        raise BadInput(f"server_role: found {word!r}, needed CONTEXT or GENERATION")
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host.strip("[]") in LOOPBACK or host.startswith("127.")


def parse(raw: Optional[Mapping[str, Any]], uri: str = "") -> Optional[Cluster]:
    """The cluster of a map `disagg_cluster` and of `--disagg_cluster_uri`, which wins; None if there is neither.

    Nulls count as left out; both spellings of the time-out are taken. BadInput with every complaint at once.
    """
    if raw is None and not uri:
        return None
    if raw is not None and not isinstance(raw, Mapping):
        raise BadInput(f"disagg_cluster: found {raw!r}, needed a map with cluster_uri")
    said: List[str] = []
    given = {SPELLINGS.get(k, k): v for k, v in (raw or {}).items() if v is not None}
    minimal = _known(given.pop("minimal_instances", {}), "disagg_cluster.minimal_instances", tuple(SECTION.values()), said)
    known = ("cluster_uri", "cluster_name", "heartbeat_interval_sec", "inactive_timeout_sec")
    values = _known(given, "disagg_cluster", known, said)
    cluster = Cluster(
        uri=uri or str(values.get("cluster_uri", "")),
        name=str(values.get("cluster_name", "")),
        minimal_context=int(_number(minimal, SECTION[CONTEXT], 1, said)),
        minimal_generation=int(_number(minimal, SECTION[GENERATION], 1, said)),
        heartbeat_s=_number(values, "heartbeat_interval_sec", 5, said),
        inactive_s=_number(values, "inactive_timeout_sec", 10, said),
    )
    said += [f"disagg_cluster.cluster_uri: {wrong}" for wrong in _wrong_uri(cluster.uri)]
    if said:
        raise BadInput("\n".join(said))
    return cluster


def endpoints(uri: str) -> List[str]:
    """ "host:port" of each etcd server in a comma list; the scheme may be left out after the first."""
    return [part.strip().replace("etcd://", "", 1).rstrip("/") for part in uri.split(",")]


def token(environ: Mapping[str, str]) -> str:
    """The cluster token: of the file that the environment names, else the run's own; "" without one."""
    run = environ.get("DISAGG_RUN")
    path = environ.get(TOKEN_FILE) or (os.path.join(run, "state", "token") if run else "")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        if environ.get(TOKEN_FILE):
            raise BadInput(f"{TOKEN_FILE}: {path} cannot be read: name a file that holds the cluster's token") from None
        return ""


def _known(raw: Any, where: str, known: Tuple[str, ...], said: List[str]) -> Dict[str, Any]:
    if not isinstance(raw, Mapping):
        said.append(f"{where}: found {raw!r}, needed a map")
        return {}
    said += [f"{where}.{key}: no such key; there are {', '.join(known)}" for key in raw if key not in known]
    return {k: v for k, v in raw.items() if k in known and v is not None}


def _number(values: Mapping[str, Any], key: str, default: float, said: List[str]) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        said.append(f"disagg_cluster {key}: found {value!r}, needed a number that is not negative")
        return default
    return value


def _wrong_uri(uri: str) -> List[str]:
    if uri.startswith("etcd://"):
        bad = [one for one in endpoints(uri) if not _has_port(f"//{one}")]
        return [f"found {one!r}, needed host:port" for one in bad]
    if urlsplit(uri).scheme in ("http", "https") and _has_port(uri):
        return []
    return [f"found {uri!r}, needed http://host:port of the router, or etcd://host:port[,etcd://host:port]"]


def _has_port(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    return bool(host) and all(c.isalnum() or c in "-._:[]%" for c in host)
