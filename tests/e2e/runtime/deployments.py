"""Run folders with tiny real workers, and gateways as real processes that are gone after each test."""

import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time

import psutil

from disagg_launch import plan
from disagg_launch.launch import Ref
from disagg_launch.plan import Instance, Plan, Rank

HERE = pathlib.Path(__file__).parent
# without site-packages: a worker is up in 30 ms
WORKER = (sys.executable, "-I", "-S", str(HERE / "worker.py"), "--port", (Ref("port"),))
ROUTER = (sys.executable, "-I", "-S", str(HERE / "worker.py"), "--port", (Ref("port", "router"),))


def free_ports(count):
    """Different ports that nobody listens on now, below those that the kernel gives to clients: a probe must not take one."""
    ports = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return list(dict.fromkeys(ports)) if len(set(ports)) == count else free_ports(count)


def make_plan(sizes, ports, nodes=1):
    """Instances ctx0, ctx1, ... with `sizes` ranks each, all on node 0, or spread evenly over `nodes`."""
    instances, ranks = [], []
    for number, size in enumerate(sizes):
        first, name = len(ranks), f"ctx{number}"
        for k in range(size):
            ranks.append(Rank(first + k, name, plan.CONTEXT, k, k, 0, len(ranks) % nodes, len(ranks)))
        held = tuple(dict.fromkeys(r.node for r in ranks[first:]))
        instances.append(Instance(name, plan.CONTEXT, first, size, held, ports[number]))
    return Plan("test", nodes, len(ranks), tuple(instances), tuple(ranks)).sealed()


class Deployment:
    """A run folder and its gateway."""

    def __init__(self, run, layout, manifest):
        self.run, self.plan, self.launch = run, layout, manifest
        self.process = None

    def up(self, *options):
        argv = [sys.executable, str(self.run / "runtime.pyz"), "gateway", str(self.run), *options]
        # a file for standard error: a pipe that nobody reads would hold the gateway up
        self.errors = open(self.run / "stderr", "wb")  # noqa: SIM115
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self.errors, text=True, start_new_session=True)
        return self

    def ready(self):
        """Wait for the ready line; its URL, or "" when the gateway ended without one."""
        line = self.process.stdout.readline()
        found = re.match(r"ready: (http://\S+)\n$", line)
        assert found or not line, line
        return found.group(1) if found else ""

    def wait(self, timeout_s=60):
        """The gateway's exit status, once it and everything else is gone."""
        code = self.process.wait(timeout_s)
        assert survivors(self.run) == []
        return code

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.wait()

    def text(self):
        return (self.run / "stderr").read_text()

    def log(self, name):
        return (self.run / "logs" / f"{name}.log").read_text()

    def lines(self, name):
        """What the ranks of an instance said, as (rank, text)."""
        return re.findall(r"^\[(.+?)\] \S+Z (.*)$", self.log(name), re.M)

    def pids(self, name):
        """The pids an instance's workers printed, oldest first."""
        return [int(n) for n in re.findall(r" pid (\d+)", self.log(name))]


def survivors(run):
    """Processes of this run that still live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
            if alive and (process.environ().get("DISAGG_RUN") == str(run) or str(run) in " ".join(process.cmdline())):
                found.append(" ".join(process.cmdline()))
    return found


def until(condition, timeout_s=30):
    """What `condition` says as soon as that is true; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")
