"""Stand-in for `ray symmetric-run`: the same words on every node; the first runs the command when all nodes are there.

As the real one (ray 2.60): a node is the first if the address is one of its own, loopback not counted when there are several nodes; a
node has one Ray at most; nobody waits longer than RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT, 30 s unless it is set. A node that gives up
leaves with 0 or 1 as the real one does; the command's own exit status is the first node's.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import click
import psutil
import serving

# `ray start`'s options but for those that symmetric-run sets itself, and those that only a head may have
START: dict[str, Any] = {
    "--node-name": str, "--redis-username": str, "--redis-password": str, "--object-manager-port": int, "--node-manager-port": int,
    "--min-worker-port": int, "--max-worker-port": int, "--worker-port-list": str, "--ray-client-server-port": int, "--memory": int,
    "--object-store-memory": int, "--num-cpus": int, "--num-gpus": int, "--resources": str, "--dashboard-host": str,
    "--dashboard-port": int, "--dashboard-agent-listen-port": int, "--dashboard-agent-grpc-port": int, "--runtime-env-agent-port": int,
    "--plasma-directory": str, "--object-spilling-directory": str, "--autoscaling-config": str, "--temp-dir": str,
    "--system-config": json.loads, "--metrics-export-port": int, "--tracing-startup-hook": str, "--labels": str, "--labels-file": str,
    "--include-log-monitor": bool, "--system-reserved-cpu": float, "--system-reserved-memory": int, "--cgroup-path": str,
    "--proxy-server-url": str,
}  # fmt: skip
FLAGS = ("--no-redirect-output", "--no-monitor", "--ray-debugger-external", "--disable-usage-stats", "--enable-resource-isolation")
OWN = ("--head", "--node-ip-address", "--port", "--block")
HEAD_ONLY = ("--include-dashboard", "--redis-shard-ports")
WAIT_S = int(os.environ.get("RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT", "30"))


def symmetric_run(address: str, min_nodes: int, **start: Any) -> tuple[str, int, int, int]:
    """(host, port, nodes, GPUs of this node) as asked for; exits as the real one refuses."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        raise click.ClickException(f"Invalid address format: {address}, should be `host:port`")
    visible = len(serving.visible_gpus())
    gpus = visible if start["num_gpus"] is None else start["num_gpus"]
    if gpus > visible:
        raise click.ClickException(f"Attempting to start raylet with {gpus} GPU, but CUDA_VISIBLE_DEVICES contains {visible}")
    return host, int(port), min_nodes, gpus


def parsed(words: list[str]) -> tuple[str, int, int, int]:
    """As `symmetric_run`, from the words before `--`; click says what is wrong with them."""
    for word in words:
        name = word.split("=")[0]
        if name in OWN:
            raise click.ClickException(f"Cannot use {name} option in symmetric_run.")
        if name in HEAD_ONLY:
            raise click.ClickException(f"`{name}` should only be specified when starting head node with `--head`.")
    made = click.command()(symmetric_run)
    made.params += [click.Option(["--address"], required=True), click.Option(["--min-nodes"], type=int, default=1)]
    made.params += [click.Option([name], type=kind) for name, kind in START.items()]
    made.params += [click.Option([name], is_flag=True) for name in FLAGS]
    found: tuple[str, int, int, int] = made.main(words, prog_name="ray symmetric-run", standalone_mode=False)
    return found


def is_first(host: str, nodes: int) -> bool:
    """Whether the address is this node's own."""
    families = (socket.AF_INET, socket.AF_INET6)
    own = {one.address for addresses in psutil.net_if_addrs().values() for one in addresses if one.family in families}
    if nodes > 1:
        own = {one for one in own if not one.startswith("127.") and one != "::1"}
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0] in own


def alone() -> socket.socket:
    """Something that only one Ray of a node can have, kept as long as the process; exits if another has it."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind("\0standin-ray")  # belongs to the network namespace, which is the node
    except OSError:
        raise click.ClickException("Ray is already started on this node.") from None
    return mark


def lead(host: str, port: int, nodes: int, gpus: int, command: list[str]) -> int:
    """The first node's part: the command's exit status, after all others have come."""
    server = socket.create_server((host, port))
    server.settimeout(WAIT_S)
    links = []
    try:
        while len(links) < nodes - 1:
            link, _ = server.accept()
            gpus += int(link.recv(16))
            links.append(link)
            print(f"Waiting for nodes to start... {len(links) + 1}/{nodes} nodes started", flush=True)
    except TimeoutError:
        raise click.ClickException("Timed out waiting for other nodes to start.") from None
    print(f"Running command on head node: {command}", flush=True)
    # the real Ray holds the nodes' GPUs for whom the command asks them of it
    child: subprocess.Popen[bytes] = serving.start(command, STANDIN_RAY_GPUS=str(gpus))
    return child.wait()


def follow(host: str, port: int, gpus: int) -> int:
    """Another node's part: it gives its GPUs until the first one leaves."""
    print(f"On worker node. Connecting to Ray cluster at {host}:{port}...", flush=True)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            link = socket.create_connection((host, port))
            break
        except OSError:
            if time.monotonic() > deadline:
                raise click.ClickException("Timed out waiting for head node to start.") from None
            time.sleep(0.1)
    link.sendall(str(gpus).encode())
    link.recv(1)
    return 0


def main(words: list[str]) -> int:
    """Exit status of this node's `ray`."""
    serving.trace("ray")
    try:
        if words[:1] != ["symmetric-run"]:
            raise click.UsageError(f"No such command {words[:1]}.")
        if "--" not in words:
            raise click.ClickException("No separator '--' found in arguments.")
        at = words.index("--")
        host, port, nodes, gpus = parsed(words[1:at])
        if not words[at + 1 :]:
            raise click.ClickException("No entrypoint command provided.")
        mark = alone()
        with mark:
            return lead(host, port, nodes, gpus, words[at + 1 :]) if is_first(host, nodes) else follow(host, port, gpus)
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
