"""Seconds from `up` to the open router, less the slowest worker's own start: what the launcher adds.

    python bench/startup/run.py [--instances 2 8 32] [--load-s 2] [--repeats 3]

For each count, in turns: the gateway with the `local` backend, the gateway with one `mpirun` (MPICH wheel) over all ranks, and what a shell
script does for the same workers: start all, then ask each with curl every ten seconds, then start the router. A worker's own start is
measured by itself: one worker, started directly and asked every 10 ms. Medians.
"""

import argparse
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types

from disagg_launch import backends, launch, plan, zipapp
from disagg_launch.launch import Launch, Policy, Ref, Router, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, Rank
from disagg_launch.spec.model import Mpi

WORKER = str(pathlib.Path(__file__).with_name("worker.py"))
LOOP_S = 10


def write_run(folder, backend, count, base_port, load_s):
    """A run folder of `count` one-rank instances and a router that is a worker without load time."""
    instances = tuple(Instance(f"ctx{n}", CONTEXT, n, 1, (0,), base_port + n) for n in range(count))
    ranks = tuple(Rank(n, f"ctx{n}", CONTEXT, 0, 0, 0, 0, n) for n in range(count))
    layout = Plan("bench", 1, count, instances, ranks).sealed()
    workers = tuple(Worker(i.name, (sys.executable, "-S", WORKER, (Ref("port"),), str(load_s)), gpus=False) for i in instances)
    starts, files = backends.load(backend).render(types.SimpleNamespace(mpi=Mpi()), layout, workers, sys.executable)
    router = Router((sys.executable, "-S", WORKER, str(base_port + count), "0"), port=base_port + count)
    manifest = Launch(layout.digest, backend, starts, workers, router, policy=Policy(grace_s=2))
    (folder / "plan.json").write_text(plan.to_json(layout))
    (folder / "launch.json").write_text(launch.to_json(manifest))
    (folder / "runtime.pyz").write_bytes(zipapp.bundle())
    for one in files:
        (folder / one.path).parent.mkdir(exist_ok=True)
        (folder / one.path).write_text(one.text)


def gateway_s(backend, count, load_s):
    """Seconds until the ready line."""
    folder = pathlib.Path(tempfile.mkdtemp())
    write_run(folder, backend, count, free_ports(count + 1), load_s)
    began = time.monotonic()
    with open(folder / "errors", "w") as errors:
        argv = [sys.executable, str(folder / "runtime.pyz"), "gateway", str(folder)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True)
    said = process.stdout.readline()
    took_s = time.monotonic() - began
    process.send_signal(signal.SIGINT)
    process.communicate()
    if not said.startswith("ready: "):
        raise RuntimeError((folder / "errors").read_text())
    shutil.rmtree(folder)
    return took_s


def script_s(count, load_s):
    """Seconds that a shell script with a ten-second curl loop takes for the same."""
    base = free_ports(count + 1)
    ports = " ".join(str(base + n) for n in range(count))
    script = f"""
for p in {ports}; do {sys.executable} -S {WORKER} $p {load_s} >/dev/null & done
for p in {ports}; do until curl -sf -o /dev/null http://127.0.0.1:$p/health; do sleep {LOOP_S}; done; done
{sys.executable} -S {WORKER} {base + count} 0 >/dev/null &
until curl -sf -o /dev/null http://127.0.0.1:{base + count}/health; do sleep {LOOP_S}; done
echo ready
kill $(jobs -p)
"""
    began = time.monotonic()
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    took_s = time.monotonic() - began
    process.communicate()
    return took_s


def alone_s(load_s):
    """Seconds from starting one worker to its first answer."""
    port = free_ports(1)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-S", WORKER, str(port), str(load_s)], stdout=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.01)
    took_s = time.monotonic() - began
    process.kill()
    process.wait()
    return took_s


def free_ports(count):
    """The first of `count` neighbouring ports that nobody listens on, below those that the kernel gives to clients."""
    while True:
        base = random.randrange(10_000, 30_000)
        try:
            for one in [socket.create_server(("127.0.0.1", base + n)) for n in range(count)]:
                one.close()
            return base
        except OSError:
            continue


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="*", default=[2, 8, 32])
    parser.add_argument("--load-s", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("| instances | worker alone | local: added | one mpirun: added | script with curl loop: added |")
    print("|---|---|---|---|---|")
    for count in options.instances:
        rounds = []
        for _ in range(options.repeats):
            ours = [gateway_s(backend, count, options.load_s) for backend in ("local", "mpirun")]
            rounds.append([alone_s(options.load_s), *ours, script_s(count, options.load_s)])
        alone, *took = (statistics.median(column) for column in zip(*rounds))
        print(f"| {count} | {alone:.2f} s | " + " | ".join(f"{one - alone:.2f} s" for one in took) + " |", flush=True)


if __name__ == "__main__":
    main()
