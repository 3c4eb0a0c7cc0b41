#!/usr/bin/env python3
"""A real Slurm cluster of several hosts on this one machine, from Debian's packages. Root, Linux; standard library only.

    cluster.py install                  fetch the Debian packages (no daemon is started)
    cluster.py up [--nodes 8]           bring the cluster up; does nothing when it is up already
    eval "$(cluster.py env)"            then srun, sbatch, squeue, ... in this shell mean this cluster
    cluster.py login squeue             run a command on the login host
    cluster.py on node3 hostname        run a command on a node
    cluster.py node node3 cut           cut | heal | poweroff | poweron | kill-slurmd | start-slurmd
    cluster.py ps                       what runs on the nodes
    cluster.py down                     take it down without a trace

Several clusters can be up at once: give each a --name, which is also what its nodes are called.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import accounting
import configs
import hosts
import packages
from description import Cluster

WRAPPED = ("srun", "sbatch", "salloc", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr", "sattach", "sbcast", "sstat")
FAULTS = ("cut", "heal", "poweroff", "poweron", "kill-slurmd", "start-slurmd")
UP_LIMIT_S = 60


def up(cluster: Cluster) -> None:
    """Bring the cluster up and wait until every node is idle; a cluster like it that is up is left as it is."""
    if why := packages.lacking(cluster.accounting):
        raise SystemExit(why)
    with _locked(cluster):
        if Cluster.saved(cluster.name) == cluster and _idle(cluster) == set(cluster.workers):
            return
        _down(cluster)
        _write(cluster)
        hosts.switch_on(cluster)
        hosts.start_host(cluster, cluster.controller)
        _login(cluster, *_munged(cluster))
        if cluster.accounting:
            accounting.start(cluster, lambda *argv: _login(cluster, *argv))
        _login(cluster, "slurmctld", "-i", "-c")
        for host in cluster.workers:
            hosts.start_host(cluster, host, "slurmd")
        hosts.wait_until(lambda: _idle(cluster) == set(cluster.workers), UP_LIMIT_S, f"not all nodes are idle: see {cluster.folder}/log")
        cluster.save()


def down(cluster: Cluster) -> None:
    """Take the cluster down: processes, namespaces, files. Safe at any time, any number of times."""
    with _locked(cluster):
        _down(cluster)
    _lock_file(cluster).unlink(missing_ok=True)


def fault(cluster: Cluster, host: str, what: str) -> None:
    """Do one of FAULTS to a node."""
    if what in ("cut", "heal"):
        hosts.link(cluster, host, "down" if what == "cut" else "up")
    elif what == "poweroff":
        hosts.link(cluster, host, "down")
        hosts.power_off(cluster, [host])
    elif what == "poweron":
        hosts.link(cluster, host, "up")
        hosts.start_host(cluster, host, "slurmd")
    elif what == "start-slurmd":
        subprocess.run([*hosts.entering(cluster, host), "slurmd"], check=True, env=hosts.ENVIRON)
    else:
        for pid in hosts.processes(cluster, [host]):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "slurmd":
                hosts.kill(pid)


def _down(cluster: Cluster) -> None:
    there = hosts.names_up(cluster)
    hosts.power_off(cluster, there)
    hosts.forget(cluster)
    for freezer in Path("/sys/fs/cgroup").glob(f"*/slurm_{cluster.name}[0-9]*"):
        for folder, _, _ in os.walk(freezer, topdown=False):
            os.rmdir(folder)
    shutil.rmtree(cluster.folder, ignore_errors=True)


def _write(cluster: Cluster) -> None:
    """The cluster's folder: configuration, fake GPUs, wrappers."""
    root = cluster.folder
    of_nodes = [f"{kind}/{host}" for host in cluster.workers for kind in ("spool", "tmp")]
    for name in ("run", "log", "etc/slurm", "bin", "empty", "dev", "state", *of_nodes):
        (root / name).mkdir(parents=True, mode=0o755)
    version = "cgroup/v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "cgroup/v1"
    for name, text in configs.texts(cluster, version).items():
        (root / "etc" / name).write_text(text)
        (root / "etc" / name).chmod(0o600 if name.endswith("slurmdbd.conf") else 0o644)
    for number in range(cluster.gpus):
        # Slurm sets CUDA_VISIBLE_DEVICES only for character devices; this one is /dev/null's
        os.mknod(root / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))
    for library in Path("/usr/lib").glob("*/pmix2/lib"):
        shutil.copytree(library, root / "pmix", symlinks=True)
        if not (root / "pmix/libpmix.so").exists():
            (root / "pmix/libpmix.so").symlink_to("libpmix.so.2")
    (root / "munge.key").touch(mode=0o600)
    (root / "munge.key").write_bytes(os.urandom(1024))
    _wrappers(root, cluster)


def _wrappers(root: Path, cluster: Cluster) -> None:
    """Programs that run Slurm's commands on the login host; exec, so that signals reach them."""
    enter = f'exec nsenter --target "$(cat {root}/run/{cluster.controller}.pid)" --net --uts --mount --wdns="$PWD" --'
    for name, command in {"login": "", **{name: f" /usr/bin/{name}" for name in WRAPPED}}.items():
        (root / "bin" / name).write_text(f'#!/bin/sh\n{enter}{command} "$@"\n')
        (root / "bin" / name).chmod(0o755)


def _munged(cluster: Cluster) -> list[str]:
    root = cluster.folder
    keys = {"key-file": "munge.key", "socket": "munge.sock", "seed-file": "run/munge.seed"}
    logs = {"pid-file": "run/munged.pid", "log-file": "log/munged.log"}
    return ["munged", "--force", *(f"--{flag}={root / name}" for flag, name in {**keys, **logs}.items())]


def _login(cluster: Cluster, *argv: str) -> str:
    """Run a program on the login host; what it printed. SystemExit with its complaint when it fails."""
    entered = [*hosts.entering(cluster, cluster.controller), *argv]
    done = subprocess.run(entered, env=hosts.ENVIRON, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _idle(cluster: Cluster) -> set[str]:
    """Names of the nodes that Slurm calls idle; empty while the controller does not answer."""
    try:
        return set(_login(cluster, "sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())
    except (SystemExit, OSError):
        return set()


@contextmanager
def _locked(cluster: Cluster) -> Iterator[None]:
    """One up or down of a cluster at a time."""
    with _lock_file(cluster).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock_file(cluster: Cluster) -> Path:
    return cluster.folder.with_suffix(".lock")


def _name(text: str) -> str:
    # numbers are appended to it, and a network port "NAME12-0" has at most 15 characters
    if not re.fullmatch(r"[a-z]{1,8}", text):
        raise argparse.ArgumentTypeError("a name is 1 to 8 letters a-z")
    return text


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cluster.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", type=_name, default="node")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "install"):
        one = commands.add_parser(name)
        one.add_argument("--accounting", action="store_true", help="with slurmdbd, for sacct")
        if name == "up":
            one.add_argument("--nodes", type=int, choices=range(2, 201), metavar="2..200", default=8)
            one.add_argument("--gpus", type=int, choices=range(17), metavar="0..16", default=4)
            one.add_argument("--cgroup", action="store_true", help="track processes by cgroup, as production does")
    for name in ("down", "env", "check", "ps"):
        commands.add_parser(name)
    one = commands.add_parser("node")
    one.add_argument("host")
    one.add_argument("what", choices=FAULTS)
    for name in ("on", "login"):
        one = commands.add_parser(name, add_help=False)
        if name == "on":
            one.add_argument("host")
        one.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def main() -> None:
    """Run one command."""
    options = _arguments().parse_args()
    if options.command == "install":
        packages.install(options.accounting)
    elif options.command == "check":
        raise SystemExit(packages.lacking() or 0)
    elif options.command == "up":
        up(Cluster(options.name, options.nodes, options.gpus, options.accounting, options.cgroup))
        own = "" if options.name == Cluster.name else f"--name {options.name} "
        print(f'up: {options.nodes} nodes; eval "$(python3 {sys.argv[0]} {own}env)" makes Slurm\'s commands mean them', file=sys.stderr)
    elif options.command == "down":
        down(Cluster(options.name))
    else:
        _use(options)


def _use(options: argparse.Namespace) -> None:
    cluster = Cluster.saved(options.name)
    if cluster is None:
        raise SystemExit(f"no cluster {options.name} is up: run cluster.py --name {options.name} up")
    host = getattr(options, "host", cluster.controller)
    if host not in cluster.hosts:
        raise SystemExit(f"{host} is not a host of cluster {cluster.name}; its nodes are {cluster.name}0 to {cluster.workers[-1]}")
    if options.command == "env":
        print(f"export PATH={cluster.folder}/bin:$PATH")
    elif options.command == "ps":
        print("\n".join(f"{host} {command}" for host in cluster.workers for command in hosts.commands(cluster, host)))
    elif options.command == "node":
        fault(cluster, host, options.what)
    else:
        argv = [*hosts.entering(cluster, host), *options.argv]
        os.execvp(argv[0], argv)  # noqa: S606  no shell is the point


if __name__ == "__main__":
    main()
