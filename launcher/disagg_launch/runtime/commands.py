"""The commands of runtime.pyz and what each calls. Each imports what it needs when it is called."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Callable, List, Mapping, Sequence

from disagg_launch.runtime import register, world
from disagg_launch.runtime.__main__ import here
from disagg_launch.runtime.launchers import LAUNCHERS


def main(words: Sequence[str]) -> int:
    """Run one command; the exit status. Usage errors leave with 2, by argparse."""
    options = parser().parse_args(words)
    return COMMANDS[options.command](options)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="runtime.pyz", description="The runtime half of disagg-launch.")
    commands = top.add_subparsers(dest="command", required=True)
    rank = commands.add_parser("rank", help="take the role of one task and become its worker")
    rank.add_argument("--launcher", required=True, choices=sorted(LAUNCHERS), help="who started this task")
    spread = commands.add_parser("spread", help="start all tasks of a step side by side on this machine")
    for one in (rank, spread):
        one.add_argument("--step", required=True, help="the step of the plan")
        one.add_argument("--digest", required=True, help="the plan the step was rendered for")
    gateway = commands.add_parser("gateway", help="start, wait, open the router, watch, stop")
    gateway.add_argument("run", nargs="?", default=here(), help="the run folder [default: where this file lies]")
    gateway.add_argument("--hosts", default="", help="host names by node number, comma separated [default: this machine for all]")
    gateway.add_argument("--addresses", default="", help="what other nodes reach those hosts by, where that is another name")
    gateway.add_argument("--listen", default="", help="this machine's address for the ranks' reports [default: loopback if that is enough]")
    gateway.add_argument("--quiet", action="store_true", help="say nothing but the ready line")
    gateway.add_argument("--detach", action="store_true", help="come back when the router is open, and go on in the background")
    commands.add_parser("ports", help="hold port numbers on this host, as asked on standard input")
    hosts = commands.add_parser("hosts", help="print the Slurm job's hosts, or those of a step's tasks, comma separated")
    what = hosts.add_mutually_exclusive_group()
    what.add_argument("--step", default="", help="of this step's tasks, in task order")
    what.add_argument("--addresses", action="store_true", help='print their addresses instead, from lines "host address" on standard input')
    address = commands.add_parser("address", help="print this host's address on an interface or subnet")
    address.add_argument("network", nargs="?", default="", help="such as hsn0 or 10.1.0.0/16 [default: the one used toward --toward]")
    address.add_argument("--toward", default="", help="another host")
    address.add_argument("--named", action="store_true", help="with the Slurm node's name before it")
    down = commands.add_parser("down", help="ask the gateway to stop everything in order")
    down.add_argument("run", nargs="?", default=here(), help="the run folder [default: where this file lies]")
    inside = commands.add_parser("world", help="call a function with its instance's communicator (under `python -m mpi4py`)")
    world.add_arguments(inside)
    warden = commands.add_parser("warden", help="end what is marked when standard input closes")
    warden.add_argument("--life", required=True, help="the mark")
    warden.add_argument("--grace-s", type=float, required=True, help="between TERM and KILL")
    deputy = commands.add_parser("deputy", help="end the Slurm job when the gateway's node is down")
    deputy.add_argument("--host", required=True, help="the gateway's node")
    deputy.add_argument("--job", required=True, help="the job's id")
    deputy.add_argument("--requeue", action="store_true", help="have the job start again instead")
    looking = commands.add_parser("stacks", help="print where processes are")
    looking.add_argument("pids", type=int, nargs="*", help="their process numbers")
    looking.add_argument("--ask", default="", help="the signal upon which they write their stacks to their logs")
    joining = commands.add_parser("register", help="keep a worker registered in a disagg cluster, and become it")
    register.add_arguments(joining)
    return top


def _rank(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import bootstrap

    bootstrap.main(here(), options.launcher, options.step, options.digest, os.environ)
    return 0


def _spread(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import spread

    return spread.main(here(), options.step, options.digest, os.environ)


def _gateway(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import detach, gateway

    opened = detach.leave() if options.detach else None
    return gateway.main(options.run, _names(options.hosts), _names(options.addresses), options.listen, options.quiet, opened)


def _hosts(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import allocation, bootstrap

    found = bootstrap.hosts_of_step(here(), options.step, os.environ) if options.step else allocation.hosts(os.environ)
    print(",".join(allocation.addresses(found, sys.stdin) if options.addresses else found))
    return 0


def _ports(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import ports

    return ports.main()


def _address(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import allocation

    name = os.environ.get("SLURMD_NODENAME", "") + " " if options.named else ""
    print(name + allocation.address(options.network, options.toward))
    return 0


def _down(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import folder

    folder.call(os.path.abspath(options.run), {"kind": "stop"})
    return 0


def _warden(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import folder

    folder.warden(options.life, options.grace_s)
    return 0


def _deputy(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import deputy

    deputy.main(here(), options.host, options.job, options.requeue)
    return 0


def _world(options: argparse.Namespace) -> int:
    sys.exit(world.run(options))


def _register(options: argparse.Namespace) -> int:
    return register.main(options, os.environ)


def _stacks(options: argparse.Namespace) -> int:
    from disagg_launch.runtime import stacks

    for line in stacks.samples(options.pids, options.ask):
        print(line, flush=True)
    return 0


def _names(text: str) -> List[str]:
    return [name for name in text.split(",") if name]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "rank": _rank,
    "spread": _spread,
    "gateway": _gateway,
    "ports": _ports,
    "hosts": _hosts,
    "address": _address,
    "down": _down,
    "world": _world,
    "warden": _warden,
    "deputy": _deputy,
    "register": _register,
    "stacks": _stacks,
}
