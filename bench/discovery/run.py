"""Many simulated workers register at one router and send heartbeats: time until all are ready, and the router's CPU share at rest.

    python bench/discovery/run.py [--workers 1000] [--seconds 20]

The workers are one process: one server on all loopback addresses 127.1.x.y answers every health probe, and each worker sends its
own requests. The router is bound to one core. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import Any

import psutil
import yaml

HEARTBEAT_S, INACTIVE_S = 5, 15
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Health(asyncio.Protocol):
    """Every request is answered 200."""

    def connection_made(self, transport: Any) -> None:
        """Somebody probes."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(OK * data.count(b"\r\n\r\n"))


async def request(port: int, method: str, target: str, body: bytes = b"") -> int:
    """The status of one storage request on a connection of its own, as workers of any make send it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = ("Host: r", "Connection: close", "Content-Type: application/json", f"Content-Length: {len(body)}")
    writer.write("\r\n".join((f"{method} {target} HTTP/1.1", *fields, "", "")).encode() + body)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def worker(number: int, router: int, port: int, lost: list[int]) -> None:
    """One worker's registration and heartbeats; begins within the first second, beats at a phase of its own."""
    host = f"127.1.{number // 250}.{number % 250 + 1}"
    await asyncio.sleep(number % 100 / 100)
    name = f"{'CONTEXT' if number % 2 else 'GENERATION'}-{host}:{port}-1-1-{number:03d}"
    key = f"/trtllm-disagg/bench/workers/{name}"
    value = json.dumps({"worker_id": name, "host": host, "port": port, "role": 1 - number % 2})
    item = {"key": key, "value": value, "expire_time": -1, "ttl": INACTIVE_S, "overwrite_if_exists": False}
    await request(router, "POST", "/set", json.dumps(item).encode())
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        if await request(router, "GET", f"/expire?key={key}&ttl={INACTIVE_S}") != 200:
            lost.append(number)


def ready(router: int) -> int:
    """How many workers the router may give requests to."""
    with urllib.request.urlopen(f"http://127.0.0.1:{router}/cluster_info", timeout=10) as answer:
        rows = json.loads(answer.read())["current_workers"]
    return sum(row["state"] == "ready" for role in rows.values() for row in role)


async def measure(workers: int, seconds: float, router: int, process: psutil.Process) -> dict[str, Any]:
    """The numbers, with the router running."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Health, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    lost: list[int] = []
    began = time.monotonic()
    tasks = [asyncio.ensure_future(worker(n, router, port, lost)) for n in range(workers)]
    while await asyncio.to_thread(ready, router) < workers:
        await asyncio.sleep(0.1)
    took_s = time.monotonic() - began
    await asyncio.sleep(HEARTBEAT_S)
    before, at = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds)
    share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - at)
    still = await asyncio.to_thread(ready, router)
    for task in tasks:
        task.cancel()
    figures = {"workers": workers, "all_ready_s": round(took_s, 2), "router_cpu_share": round(share, 3), "still_ready": still}
    return {**figures, "lost_heartbeats": len(lost), "router_rss_mb": process.memory_info().rss >> 20}


def main() -> None:
    """Start the router, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with socket.socket() as trial, tempfile.TemporaryDirectory() as folder:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
        trial.close()
        times = {"heartbeat_interval_sec": HEARTBEAT_S, "inactive_timeout_sec": INACTIVE_S}
        cluster = {"cluster_uri": f"http://127.0.0.1:{port}", "cluster_name": "bench", **times}
        path = pathlib.Path(folder, "router.yaml")
        path.write_text(yaml.safe_dump({"hostname": "127.0.0.1", "port": port, "disagg_cluster": cluster}))
        argv = [sys.executable, "-m", "disagg_launch", "router", "-c", str(path), "--drain", "1"]
        router = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            os.sched_setaffinity(router.pid, {max(os.sched_getaffinity(0))})
            while router.poll() is None:
                with socket.socket() as trial:
                    if trial.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            print(json.dumps(asyncio.run(measure(options.workers, options.seconds, port, psutil.Process(router.pid)))))
        finally:
            router.kill()
            router.wait()


if __name__ == "__main__":
    main()
