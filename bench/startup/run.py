"""Seconds from the launcher's beginning to the open router, less the slowest worker's own time: what the launcher adds.

    python bench/startup/run.py [--ranks 2 8 32 64] [--load-s 2] [--repeats 3] [--ways local mpirun script slurm slurm-script]

For each count, in turns: the gateway with the `local` backend, the gateway with one `mpirun` (MPICH wheel) over all ranks, and what a shell
script does for the same workers: start all, then ask each with curl every ten seconds, then start the router. The same again on the Slurm
test cluster, if it can be had here: a submitted job, and a batch script with one srun for each worker and the same loop; there the time is
from the batch script's first line on. Medians.
"""

import argparse
import os
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

import on_slurm

from disagg_launch import backends, launch, plan, zipapp
from disagg_launch.launch import Launch, Policy, Ref, Router, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, Rank
from disagg_launch.spec.model import Mpi

WORKER = str(pathlib.Path(__file__).with_name("worker.py"))
LOOP_S = 10
TITLES = {
    "local": "local",
    "mpirun": "one mpirun",
    "script": "script with curl loop",
    "slurm": "Slurm",
    "slurm-script": "Slurm, script with curl loop",
}


def write_run(folder, own, backend, count, base_port, load_s):
    """A run folder of `count` one-rank instances and a router that is a worker without load time."""
    instances = tuple(Instance(f"ctx{n}", CONTEXT, n, 1, (0,), base_port + n) for n in range(count))
    ranks = tuple(Rank(n, f"ctx{n}", CONTEXT, 0, 0, 0, 0, n) for n in range(count))
    layout = Plan("bench", 1, count, instances, ranks).sealed()
    workers = tuple(Worker(i.name, (sys.executable, "-S", WORKER, (Ref("port"),), str(load_s), str(own)), gpus=False) for i in instances)
    starts, files = backends.load(backend).render(types.SimpleNamespace(mpi=Mpi()), layout, workers, sys.executable)
    router = Router((sys.executable, "-S", WORKER, str(base_port + count), "0", str(folder)), port=base_port + count)
    manifest = Launch(layout.digest, backend, starts, workers, router, policy=Policy(grace_s=2))
    (folder / "plan.json").write_text(plan.to_json(layout))
    (folder / "launch.json").write_text(launch.to_json(manifest))
    (folder / "runtime.pyz").write_bytes(zipapp.bundle())
    for one in files:
        (folder / one.path).parent.mkdir(exist_ok=True)
        (folder / one.path).write_text(one.text)


def gateway_s(folder, own, backend, count, load_s):
    """Seconds until the ready line."""
    write_run(folder, own, backend, count, free_ports(count + 1), load_s)
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
    return took_s


def script_s(folder, own, count, load_s):
    """Seconds that a shell script with a ten-second curl loop takes for the same."""
    base = free_ports(count + 1)
    ports = " ".join(str(base + n) for n in range(count))
    script = f"""
for p in {ports}; do {sys.executable} -S {WORKER} $p {load_s} {own} >/dev/null & done
for p in {ports}; do until curl -sf -o /dev/null http://127.0.0.1:$p/health; do sleep {LOOP_S}; done; done
{sys.executable} -S {WORKER} {base + count} 0 {folder} >/dev/null &
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


def added(way, cluster, count, load_s):
    """(seconds that one way of starting adds, the slowest worker's own time)."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-startup-"))
    own = folder / "own"
    own.mkdir()
    try:
        if way == "script":
            took_s = script_s(folder, own, count, load_s)
        elif way == "slurm":
            took_s = on_slurm.job_s(cluster, folder, own, count, load_s)
        elif way == "slurm-script":
            took_s = on_slurm.script_s(cluster, folder, own, count, load_s, LOOP_S)
        else:
            took_s = gateway_s(folder, own, way, count, load_s)
        times = [float(path.read_text()) for path in own.iterdir()]
        assert len(times) == count, f"{way}: {len(times)} of {count} workers told their own time"
        return took_s - max(times), max(times)
    finally:
        shutil.rmtree(folder)


def measure(options, cluster):
    """A row of the table for each count."""
    print("| ranks | slowest worker's own | " + " | ".join(f"{TITLES[way]}: added" for way in options.ways) + " |")
    print("|---" * (2 + len(options.ways)) + "|")
    for count in options.ranks:
        rounds = [[added(way, cluster, count, options.load_s) for way in options.ways] for _ in range(options.repeats)]
        medians = [statistics.median(one for one, _ in column) for column in zip(*rounds)]
        own = statistics.median(own for row in rounds for _, own in row)
        print(f"| {count} | {own:.2f} s | " + " | ".join(f"{one:.2f} s" for one in medians) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 8, 32, 64])
    parser.add_argument("--load-s", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--ways", nargs="*", choices=list(TITLES), default=None, help="[default: all; Slurm's if the test cluster can be had]"
    )
    options = parser.parse_args()
    why_not = on_slurm.lacking()
    options.ways = options.ways or [way for way in TITLES if not (why_not and "slurm" in way)]
    if why_not and any("slurm" in way for way in options.ways):
        sys.exit(why_not)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {why_not or 'Slurm by the test cluster'}", file=sys.stderr)
    with on_slurm.cluster(any("slurm" in way for way in options.ways)) as one:
        measure(options, one)


if __name__ == "__main__":
    main()
