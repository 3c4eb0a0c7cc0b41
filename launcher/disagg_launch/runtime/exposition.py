"""The gateway's own figures for Prometheus: a page on a port of its own, and RUN/prometheus.json, by which Prometheus finds it.

The port is on the address that ranks report to: loopback, unless there are other nodes. There is nothing secret on the page.
An instance is called `instance_name` in labels: `instance` and `job` are Prometheus' own words for who was asked.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Tuple

from disagg_launch.runtime.folder import write_private
from disagg_launch.runtime.readiness import UP

TARGETS = "prometheus.json"
PATIENCE_S = 5.0
LONGEST = 16 << 10
STATES = ("starting", "ready", "stopping")
HEAD = "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"
REPORTED = ("reported", "missing")
COUNTED = (
    ("ended", "ends_total", "instance_name", "unwished ends of the instance"),
    ("verdict", "verdicts_total", "state", "verdicts on the deployment"),
    ("proof", "proofs_total", "ok", "tokens sent through a pair to prove it"),
)
Counts = Mapping[Tuple[str, str], int]
"""How often what happened: by event, and by what `Events.tell` counts it by."""


class Exposition:
    """Answers GET /metrics with `page()`, from `open` to `close`. `url` is "" before."""

    def __init__(self, page: Callable[[], str]) -> None:
        self._page = page
        self._connections: Dict[asyncio.Future[None], asyncio.StreamWriter] = {}
        self.url = ""

    async def open(self, host: str) -> None:
        """Listen on a free port of `host`."""
        self._server = server = await asyncio.start_server(self._serve, host, 0, limit=LONGEST)
        self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}/metrics"

    async def close(self) -> None:
        """Answer nobody any more."""
        if self.url:
            self._server.close()
        while self._connections:
            for writer in self._connections.values():
                writer.transport.abort()
            await asyncio.wait(set(self._connections))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)
        await task

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            method, path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ")
            found = method == "GET" and path.partition("?")[0] == "/metrics"
            body = self._page().encode() if found else b"GET /metrics is all there is\n"
            writer.write(HEAD.format("200 OK" if found else "404 Not Found", len(body)).encode() + body)
            await asyncio.wait_for(writer.drain(), PATIENCE_S)
        writer.close()


def write_targets(run: str, urls: Mapping[str, str], name: str) -> None:
    """RUN/prometheus.json, in the form of Prometheus' file_sd_configs. Anybody may read it: Prometheus is another user."""
    made: List[Dict[str, Any]] = []
    for part, url in urls.items():
        address, _, path = url.partition("://")[2].partition("/")
        labels = {"__metrics_path__": f"/{path}", "deployment": name, "run": os.path.basename(run), "part": part}
        made.append({"targets": [address], "labels": labels})
    write_private(os.path.join(run, TARGETS), json.dumps(made, indent=1) + "\n", 0o644)


def withdraw(run: str) -> None:
    """Prometheus need not ask here any more."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(run, TARGETS))


def page(status: Mapping[str, Any], counts: Counts, began_at: float, ready_s: float) -> str:
    """The page: from state/status.json's value, what happened so far, and when. `ready_s` is 0 before the router is open."""
    return "\n".join((*_deployment(status, began_at, ready_s), *_instances(status), *_counted(status, counts))) + "\n"


def _deployment(status: Mapping[str, Any], began_at: float, ready_s: float) -> Iterator[str]:
    which = {"name": status["name"], "digest": status["digest"], "slurm_job": status["job"]}
    yield from _metric("info", "gauge", "1; its labels say which deployment", [(which, 1)])
    yield from _metric("state", "gauge", "1 for the state it is in", [({"state": s}, int(s == status["state"])) for s in STATES])
    yield from _metric("begin_time_seconds", "gauge", "unix time at which the gateway began", [({}, began_at)])
    yield from _metric(
        "degraded", "gauge", "instances that cannot be started now, while the others serve on", [({}, len(status["degraded"]))]
    )
    if ready_s:
        yield from _metric("ready_seconds", "gauge", "from the beginning to the open router", [({}, ready_s)])
    yield from _metric("gateway_cpu_seconds_total", "counter", "CPU time of the gateway itself", [({}, time.process_time())])


def _instances(status: Mapping[str, Any]) -> Iterator[str]:
    resting = status["resting"]
    named = [({"instance_name": one["name"], "role": one["role"]}, one) for one in status["instances"]]
    stages = ["resting" if one["name"] in resting else "ended" if one["ended"] else one["stage"] for _, one in named]
    by_stage = collections.Counter((labels["role"], stage) for (labels, _), stage in zip(named, stages))
    samples = [({"role": role, "stage": stage}, count) for (role, stage), count in sorted(by_stage.items())]
    yield from _metric("instances", "gauge", "instances by stage", samples)
    healthy = [(labels, int(stage in UP)) for (labels, _), stage in zip(named, stages)]
    yield from _metric("instance_healthy", "gauge", "1 if the instance is healthy", healthy)
    restarts = [(labels, one["restarts"]) for labels, one in named]
    yield from _metric("instance_restarts_total", "counter", "starts of the instance after the first", restarts)
    ranks = collections.Counter("reported" if "pid" in rank else "missing" for _, one in named for rank in one["ranks"])
    yield from _metric("ranks", "gauge", "ranks that have reported, and those that have not", [({"state": s}, ranks[s]) for s in REPORTED])


def _counted(status: Mapping[str, Any], counts: Counts) -> Iterator[str]:
    """Also what has not happened yet, as 0: Prometheus cannot see a counter grow that begins with 1."""
    may = {"ended": (*(one["name"] for one in status["instances"]), "router"), "verdict": ("failed", "stopped"), "proof": ("True", "False")}
    for event, name, label, text in COUNTED:
        found = {**dict.fromkeys(may[event], 0), **{what: count for (kind, what), count in counts.items() if kind == event}}
        yield from _metric(name, "counter", text, [({label: what}, count) for what, count in sorted(found.items())])


def _metric(name: str, kind: str, text: str, samples: Iterable[Tuple[Mapping[str, str], float]]) -> Iterator[str]:
    yield f"# HELP disagg_{name} {text}\n# TYPE disagg_{name} {kind}"
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"disagg_{name}{{{inside}}} {value}" if inside else f"disagg_{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
