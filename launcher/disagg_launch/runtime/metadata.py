"""The metadata server of TensorRT-LLM's prototype: etcd, keys `trtllm/<id>`, no leases. The map, an entry, and a worker's side of it."""

from __future__ import annotations

import datetime
import json
import secrets
from dataclasses import dataclass, fields
from typing import Any, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.cluster import ROLE_WORDS
from disagg_launch.runtime.etcd import Etcd

PREFIX = "trtllm/"
SPELLINGS = {"refersh_interval": "refresh_interval"}
VERSION = "1.0"


@dataclass(frozen=True)
class Metadata:
    """The metadata server's map, its keys as upstream spells them; seconds."""

    server_type: str = "etcd"
    hostname: str = "localhost"
    port: int = 2379
    health_check_timeout: float = 5.0
    refresh_interval: float = 10.0

    def store(self) -> Etcd:
        """The etcd; nothing is asked yet."""
        return Etcd([f"{self.hostname}:{self.port}"])


def parse(raw: Mapping[str, Any]) -> Metadata:
    """The map in a metadata_config.yaml; `refersh_interval` and a missing server_type are forgiven. BadInput otherwise."""
    given = {SPELLINGS.get(k, k): v for k, v in raw.items() if v is not None}
    known = {f.name: f for f in fields(Metadata)}
    said = [f"{key}: no such key; there are {', '.join(known)}" for key in given if key not in known]
    for key, value in given.items():
        default = known[key].default if key in known else ""
        number = isinstance(default, (int, float))
        if number and (isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0):
            said.append(f"{key}: found {value!r}, needed a number above 0")
        elif not number and not isinstance(value, str):
            said.append(f"{key}: found {value!r}, needed a text")
    if given.get("server_type", "etcd") != "etcd":
        said.append(f"server_type: found {given['server_type']!r}, there is only etcd")
    if said:
        raise BadInput("\n".join(f"metadata server: {one}" for one in said))
    return Metadata(**given)


def new_entry(role: str, host: str, port: int, model: str) -> Tuple[str, str]:
    """(key, value) of a worker that starts now."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    value = {"model": model, "version": VERSION, "timestamp": now, "server_role": ROLE_WORDS[role], "url": f"http://{host}:{port}"}
    return f"{PREFIX}{host}-{port}-{secrets.token_hex(4)}", json.dumps(value)


def read_entry(value: str) -> Optional[Tuple[str, str]]:
    """(role, "host:port") of an entry; None if it says nothing about a worker that we could use."""
    try:
        raw = json.loads(value)
        role = {"context": CONTEXT, "generation": GENERATION}.get(str(raw.get("server_type") or raw.get("server_role")).lower())
        parts = urlsplit(str(raw["url"]))
        port = parts.port
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return (role, parts.netloc) if role and parts.hostname and port else None
