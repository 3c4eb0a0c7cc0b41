"""The command line of runtime.pyz: `rank` and `spread` in every task, `gateway` once, `warden`, `companion` and `world` as their tools."""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional, Sequence

from disagg_launch.errors import DisaggError
from disagg_launch.runtime import processes, register, world
from disagg_launch.runtime.launchers import LAUNCHERS


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
        one.add_argument("--run", default=_here(), help="the run folder [default: where this file lies]")
    gateway = commands.add_parser("gateway", help="start, wait, open the router, watch, stop")
    gateway.add_argument("run", nargs="?", default=_here(), help="the run folder [default: where this file lies]")
    gateway.add_argument("--hosts", default="", help="host names by node number, comma separated [default: this machine for all]")
    gateway.add_argument("--addresses", default="", help="what other nodes reach those hosts by, where that is another name")
    gateway.add_argument("--listen", default="127.0.0.1", help="this machine's address for the ranks' reports")
    gateway.add_argument("--quiet", action="store_true", help="say nothing but the ready line")
    hosts = commands.add_parser("hosts", help="print the Slurm job's hosts, or those of a step's tasks, comma separated")
    what = hosts.add_mutually_exclusive_group()
    what.add_argument("--step", default="", help="of this step's tasks, in task order")
    what.add_argument("--addresses", action="store_true", help='print their addresses instead, from lines "host address" on standard input')
    address = commands.add_parser("address", help="print this host's address on an interface or subnet")
    address.add_argument("network", nargs="?", default="", help="such as hsn0 or 10.1.0.0/16 [default: the one used toward --toward]")
    address.add_argument("--toward", default="", help="another host")
    address.add_argument("--named", action="store_true", help="with the Slurm node's name before it")
    down = commands.add_parser("down", help="ask the gateway to stop everything in order")
    down.add_argument("run", nargs="?", default=_here())
    inside = commands.add_parser("world", help="call a function with its instance's communicator (under `python -m mpi4py`)")
    world.add_arguments(inside)
    warden = commands.add_parser("warden", help="end what is marked when standard input closes")
    warden.add_argument("--life", required=True)
    warden.add_argument("--grace-s", type=float, required=True)
    joining = commands.add_parser("register", help="keep a worker registered in a disagg cluster, and become it")
    register.add_arguments(joining)
    return top


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command; the exit status."""
    options = parser().parse_args(argv)
    try:
        return _command(options)
    except DisaggError as error:
        print(f"disagg-launch: {error}", file=sys.stderr)
        return error.exit_code


def _command(options: argparse.Namespace) -> int:
    # each command imports what it needs: a rank must not pay for the gateway's imports
    if options.command == "rank":
        from disagg_launch.runtime import bootstrap

        bootstrap.main(os.path.abspath(options.run), options.launcher, options.step, options.digest, os.environ)
    elif options.command == "spread":
        from disagg_launch.runtime import spread

        return spread.main(os.path.abspath(options.run), options.step, options.digest, os.environ)
    elif options.command == "gateway":
        from disagg_launch.runtime import gateway

        return gateway.main(options.run, _names(options.hosts), _names(options.addresses), options.listen, options.quiet)
    elif options.command == "hosts":
        print(",".join(_hosts(options)))
    elif options.command == "address":
        from disagg_launch.runtime import allocation

        name = os.environ.get("SLURMD_NODENAME", "") + " " if options.named else ""
        print(name + allocation.address(options.network, options.toward))
    elif options.command == "register":
        return register.main(options, os.environ)
    elif options.command == "world":
        sys.exit(world.run(options))
    elif options.command == "down":
        from disagg_launch.runtime import folder

        folder.call(os.path.abspath(options.run), {"kind": "stop"})
    elif options.command == "warden":
        from disagg_launch.runtime import folder

        folder.warden(options.life, options.grace_s)
    return 0


def _hosts(options: argparse.Namespace) -> Sequence[str]:
    from disagg_launch.runtime import allocation, bootstrap

    if options.step:
        return bootstrap.hosts_of_step(_here(), options.step, os.environ)
    found = allocation.hosts(os.environ)
    return allocation.addresses(found, sys.stdin) if options.addresses else found


def _names(text: str) -> List[str]:
    return [name for name in text.split(",") if name]


def _here() -> str:
    archive = processes.own_archive()
    return os.path.dirname(os.path.abspath(archive)) if archive else os.getcwd()


if __name__ == "__main__":
    sys.exit(main())
