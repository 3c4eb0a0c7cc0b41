"""Which hosts a Slurm job was given, and what address a host has on a certain network."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import time
from typing import Iterable, Iterator, Mapping, Sequence, Tuple

from disagg_launch.errors import BackendRefused
from disagg_launch.hostlist import expand

SIOCGIFADDR = 0x8915


def hosts(environ: Mapping[str, str]) -> Tuple[str, ...]:
    """The hosts of the Slurm job that `environ` belongs to, in Slurm's order, parts of a heterogeneous job one after the other.

    BackendRefused outside of a job.
    """
    parts = int(environ.get("SLURM_HET_SIZE", "1"))
    names = [f"SLURM_JOB_NODELIST_HET_GROUP_{part}" for part in range(parts)] if parts > 1 else ["SLURM_JOB_NODELIST"]
    if any(name not in environ for name in names):
        raise BackendRefused(f"no Slurm allocation found ({names[0]} is not set): run `salloc` first, or `disagg-launch submit`")
    return tuple(host for name in names for host in expand(environ[name]))


def job(environ: Mapping[str, str]) -> str:
    """The id of the Slurm job, ARRAY_TASK for the task of an array; "" outside of a job."""
    if "SLURM_ARRAY_JOB_ID" in environ:
        return f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    return environ.get("SLURM_JOB_ID", "")


def ask_times(environ: Mapping[str, str]) -> Tuple[Tuple[str, ...], Mapping[str, str]]:
    """The command that prints when the job of `environ` was sent, was given its nodes and has to end, and the environment for it."""
    return ("squeue", "--noheader", "--jobs", environ["SLURM_JOB_ID"], "--format=%V %S %e"), {**environ, "SLURM_TIME_FORMAT": "standard"}


def times(lines: Iterable[str]) -> Iterator[Tuple[str, float]]:
    """("submitted", unix seconds), "allocated" and "until" of what that command printed; less if a time is not known."""
    for line in lines:
        for name, word in zip(("submitted", "allocated", "until"), line.split()):
            with contextlib.suppress(ValueError):  # a job without a limit has no end
                yield name, time.mktime(time.strptime(word, "%Y-%m-%dT%H:%M:%S"))


def addresses(names: Sequence[str], lines: Iterable[str]) -> Tuple[str, ...]:
    """The address of each host in `names`, from lines "host address". BackendRefused when one is missing."""
    found = dict(line.split() for line in lines if line.strip())
    if missing := [name for name in names if name not in found]:
        raise BackendRefused(f"{', '.join(missing)} did not say what its address is: look at the lines above")
    return tuple(found[name] for name in names)


def address(network: str, toward: str = "") -> str:
    """This host's IPv4 address on `network`: an interface (hsn0) or a subnet (10.1.0.0/16); "": what it uses toward another host.

    BackendRefused when it has none there.
    """
    if not network:
        return _toward(toward or socket.gethostname())
    found = dict(_interfaces())
    if "/" in network:
        subnet = ipaddress.ip_network(network, strict=False)
        fits = [text for text in found.values() if ipaddress.ip_address(text) in subnet]
    else:
        fits = [found[network]] if network in found else []
    if fits:
        return fits[0]
    has = ", ".join(f"{name} {text}" for name, text in found.items()) or "none"
    raise BackendRefused(f"{socket.gethostname()} has no address on {network} (it has {has}): correct `interface` in the site profile")


def _interfaces() -> Iterator[Tuple[str, str]]:
    """(interface, IPv4 address) of each interface that has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asker.fileno(), SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            yield name, socket.inet_ntoa(answer[20:24])


def _toward(host: str) -> str:
    """The address that packets from here to `host` carry. Nothing is sent: connecting a datagram socket only looks the route up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            asker.connect((host, 9))
        except OSError as problem:
            raise BackendRefused(f"{socket.gethostname()} has no way to {host} ({problem}): check the host's name resolution") from None
        found: str = asker.getsockname()[0]
        return found
