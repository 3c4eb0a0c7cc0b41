"""Hosts made of Linux namespaces: two switches, a login host, and nodes that can lose power or their network.

Whatever runs on a host is in the host's network namespace, so the namespaces alone say what belongs to a cluster: no
process is ever searched for by name, and a pid file that outlived its process can do no harm.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from description import Cluster

NETNS = Path("/run/netns")
INIT = Path(__file__).with_name("host-init.sh")
INTERFACES = ("eth0", "fast0")
# daemons get a clean environment: jobs must not see variables of whoever brought the cluster up
ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def switch_on(cluster: Cluster) -> None:
    """Make the two switches, and plug every host into both with its addresses. No uplink, no route to the outside."""
    hub = cluster.netns("hub")
    _ip("", f"netns add {hub}", *(f"netns add {cluster.netns(host)}" for host in cluster.hosts))
    for network in range(len(INTERFACES)):
        _ip(hub, f"link add br{network} type bridge", f"link set br{network} up")
    _ip(hub, *(line for host in cluster.hosts for line in _plug(cluster, host)))
    for host in cluster.hosts:
        lines = ["link set lo up"]
        for network, interface in enumerate(INTERFACES):
            lines += [f"addr add {cluster.address(host, network)}/24 dev {interface}", f"link set {interface} up"]
        _ip(cluster.netns(host), *lines)


def start_host(cluster: Cluster, host: str, daemon: str = "") -> None:
    """Power a host on. With a daemon it is a node with processes of its own; without, the login host, which shares the caller's."""
    ready = cluster.folder / "run" / f"{host}.ready"
    ready.unlink(missing_ok=True)
    own = ["--uts", "--mount", *(["--ipc", "--pid", "--fork", "--mount-proc", "--kill-child"] if daemon else [])]
    argv = ["nsenter", f"--net={NETNS / cluster.netns(host)}", "unshare", *own, "bash", str(INIT), host, str(cluster.folder)]
    log = cluster.folder / "log" / f"{host}.init.log"
    started = _detached([*argv, *([daemon] if daemon else [])], log)
    wait_until(ready.exists, 10, f"{host} did not start: see {log}")
    first = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()[0] if daemon else str(started.pid)
    (cluster.folder / "run" / f"{host}.pid").write_text(first)


def entering(cluster: Cluster, host: str) -> list[str]:
    """The command prefix that runs a program on a host, in the caller's working directory."""
    first = (cluster.folder / "run" / f"{host}.pid").read_text()
    kinds = ["--net", "--uts", "--mount", *([] if host == cluster.controller else ["--ipc", "--pid"])]
    return ["nsenter", "--target", first, *kinds, f"--wdns={os.getcwd()}", "--"]


def spawn(cluster: Cluster, host: str, argv: list[str], log: Path) -> None:
    """Start a program on a host and leave it running."""
    _detached([*entering(cluster, host), *argv], log)


def processes(cluster: Cluster, hosts: Iterable[str]) -> list[int]:
    """Pids, as seen from here, of all that runs on these hosts."""
    inodes = {_inode(NETNS / cluster.netns(host)) for host in hosts} - {0}
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if _inode(Path(f"/proc/{pid}/ns/net")) in inodes]


def commands(cluster: Cluster, host: str) -> list[str]:
    """The command lines of all that runs on a host."""
    found = []
    for pid in processes(cluster, [host]):
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            # a process that has ended and was not collected yet has none
            found += [line] if line else []
    return found


def power_off(cluster: Cluster, hosts: Iterable[str]) -> None:
    """Kill everything on these hosts at once, and wait until it is gone."""
    hosts = tuple(hosts)
    limit = time.monotonic() + 10
    while left := processes(cluster, hosts):
        if time.monotonic() > limit:
            raise SystemExit(f"processes {left} on {', '.join(hosts)} cannot be killed")
        for pid in left:
            kill(pid)
        time.sleep(0.02)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def link(cluster: Cluster, host: str, state: str) -> None:
    """Pull (state "down") or plug (state "up") a host's cables at the switch: packets vanish, nobody is told."""
    _ip(cluster.netns("hub"), *(f"link set {host}-{network} {state}" for network in range(len(INTERFACES))))


def forget(cluster: Cluster) -> None:
    """Remove the namespaces of a cluster of this name, whatever its size was."""
    names = [path.name for path in NETNS.glob(cluster.netns("*"))] if NETNS.is_dir() else []
    if names:
        _ip("", *(f"netns delete {name}" for name in names))


def names_up(cluster: Cluster) -> list[str]:
    """The hosts that exist, read from the namespaces themselves."""
    prefix = cluster.netns("")
    return [path.name[len(prefix) :] for path in NETNS.glob(prefix + "*")] if NETNS.is_dir() else []


def wait_until(done: Callable[[], bool], limit_s: float, complaint: str) -> None:
    """Return when `done()` is true; leave with the complaint when it has not been for `limit_s`."""
    limit = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(complaint)
        time.sleep(0.02)


def _plug(cluster: Cluster, host: str) -> list[str]:
    lines = []
    for network, interface in enumerate(INTERFACES):
        port = f"{host}-{network}"
        lines += [
            f"link add {port} type veth peer name {interface} netns {cluster.netns(host)}",
            f"link set {port} master br{network} up",
        ]
    return lines


def _ip(netns: str, *lines: str) -> None:
    argv = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines), text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip()}")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _detached(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(argv, env=ENVIRON, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
