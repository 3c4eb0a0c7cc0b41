"""How stand-in workers make themselves known: the disagg cluster (HTTP storage of the router, or etcd) and the legacy metadata server."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from typing import Any, Optional

import serving
import trtllm_models as models

ROLE_IDS = {"CONTEXT": 0, "GENERATION": 1}


def call(method: str, url: str, body: Any = None, timeout: float = 5) -> Any:
    """The JSON answer of a request, whatever its status; None if nothing answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as wrong:
        return json.loads(wrong.read() or b"null")
    except (OSError, ValueError):
        return None


class HttpStorage:
    """Keys kept by the router."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def set(self, key: str, value: str, ttl: int) -> bool:
        """Whether the key was new and is set now."""
        item = {"key": key, "value": value, "expire_time": -1, "ttl": ttl, "overwrite_if_exists": False}
        return bool((call("POST", f"{self.uri}/set", item) or {}).get("result"))

    def expire(self, key: str, ttl: int) -> bool:
        """Whether the key was there and lives `ttl` seconds from now."""
        query = urllib.parse.urlencode({"key": key, "ttl": ttl})
        return bool((call("GET", f"{self.uri}/expire?{query}") or {}).get("result"))

    def delete(self, key: str) -> None:
        """Takes the key away."""
        call("DELETE", f"{self.uri}/delete?{urllib.parse.urlencode({'key': key})}")


def text64(value: str) -> str:
    """Base64, as etcd's JSON gateway wants keys and values."""
    return base64.b64encode(value.encode()).decode()


class EtcdStorage:
    """Keys in etcd, through its JSON gateway; one lease for each key."""

    def __init__(self, uri: str) -> None:
        self.url = "http://" + uri.split(",")[0].removeprefix("etcd://").removeprefix("http://") + "/v3"
        self.lease = "0"

    def set(self, key: str, value: str, ttl: int = 0) -> bool:
        """Whether the key was put; with `ttl` it goes when its lease does."""
        body = {"key": text64(key), "value": text64(value)}
        if ttl:
            self.lease = (call("POST", f"{self.url}/lease/grant", {"TTL": ttl}) or {}).get("ID", "0")
            body["lease"] = self.lease
        return call("POST", f"{self.url}/kv/put", body) is not None

    def expire(self, key: str, ttl: int) -> bool:
        """Whether the key's lease could be kept alive."""
        answer = call("POST", f"{self.url}/lease/keepalive", {"ID": self.lease}) or {}
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    def delete(self, key: str) -> None:
        """Takes the key away."""
        call("POST", f"{self.url}/kv/deleterange", {"key": text64(key)})

    def prefix(self, prefix: str) -> dict[str, str]:
        """Every key that begins with `prefix`."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = call("POST", f"{self.url}/kv/range", {"key": text64(prefix), "range_end": text64(end)}) or {}
        return {base64.b64decode(kv["key"]).decode(): base64.b64decode(kv["value"]).decode() for kv in answer.get("kvs", [])}


def storage(uri: str) -> Any:
    """The storage behind a cluster_uri. ValueError for another scheme."""
    if uri.startswith("etcd://"):
        return EtcdStorage(uri)
    if uri.startswith(("http://", "https://")):
        return HttpStorage(uri)
    raise ValueError(f"invalid cluster URI: {uri}")


def serve_registered(
    argv: list[str],
    model: str,
    host: str,
    port: int,
    role: str,
    cluster: Optional[models.DisaggCluster],
    metadata: Optional[models.Metadata],
) -> int:
    """The engine's exit status; while it runs it is registered, as the real worker from before its port accepts."""
    keys: list[tuple[Any, str]] = []
    if cluster:
        store = storage(cluster.cluster_uri)
        worker = f"{role}-{host}:{port}-{int(time.time() * 1000)}-{os.getpid()}-{random.randrange(1000):03d}"
        key = f"/trtllm-disagg/{cluster.cluster_name}/workers/{worker}"
        value = json.dumps({"worker_id": worker, "host": host, "port": port, "role": ROLE_IDS[role]})
        while not store.set(key, value, cluster.inactive_timeout_sec):
            print(f"Worker {worker} registration failed, retry in 5 seconds", flush=True)
            time.sleep(5)
        threading.Thread(target=beat, args=(store, key, value, cluster), daemon=True).start()
        keys.append((store, key))
    if metadata:
        legacy = EtcdStorage(f"{metadata.hostname}:{metadata.port}")
        told = {"model": model, "version": "standin", "timestamp": datetime.now().isoformat(), "server_role": role}
        legacy.set(f"trtllm/{os.getpid()}-{port}", json.dumps({**told, "url": f"http://{host}:{port}"}))
        keys.append((legacy, f"trtllm/{os.getpid()}-{port}"))
    child: subprocess.Popen[bytes] = serving.start(argv)
    status = child.wait()
    for store, key in keys:
        store.delete(key)
    return status


def beat(store: Any, key: str, value: str, cluster: models.DisaggCluster) -> None:
    """Keeps the key alive for ever; a key that is gone is set again."""
    while True:
        time.sleep(cluster.heartbeat_interval_sec)
        if not store.expire(key, cluster.inactive_timeout_sec):
            store.set(key, value, cluster.inactive_timeout_sec)
