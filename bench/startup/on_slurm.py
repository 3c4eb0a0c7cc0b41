"""The Slurm half of the start-up bench: a job of ours and a batch script with a curl loop, on the test cluster of slurm/testcluster."""

import contextlib
import json
import pathlib
import random
import subprocess
import sys
import time

TOOL = pathlib.Path(__file__).parents[2] / "slurm/testcluster/cluster.py"
WORKER = str(pathlib.Path(__file__).with_name("worker.py"))
NAME, NODES, GPUS = "bench", 8, 8
LIMIT_S = 600


def lacking():
    """Why the test cluster cannot be had here; "" if it can."""
    return subprocess.run([sys.executable, str(TOOL), "check"], capture_output=True, text=True, check=False).stderr.strip()


@contextlib.contextmanager
def cluster(wanted):
    """The path of the program that runs a command on the login host of a cluster, while it is up; None if it is not `wanted`."""
    if not wanted:
        yield None
        return
    tool = [sys.executable, str(TOOL), "--name", NAME]
    try:
        subprocess.run([*tool, "up", "--nodes", str(NODES)], check=True, stdout=subprocess.DEVNULL)
        found = subprocess.run([*tool, "env"], check=True, capture_output=True, text=True).stdout
        yield found.split("=")[1].split(":")[0] + "/login"
    finally:
        subprocess.run([*tool, "down"], check=True, stdout=subprocess.DEVNULL)


def job_s(login, folder, own, count, load_s):
    """Seconds from the gateway's beginning to the open router, as its event log has them."""
    base = random.randrange(10_000, 30_000)
    spec = folder / "bench.yaml"
    serve = ["python3", "-S", WORKER, "{port}", str(load_s), str(own), "{host}"]
    wanted = {
        "name": "bench",
        "model": "none",
        "port": base,
        "engine": {"name": "command"},
        "cluster": {"nodes": NODES, "gpus_per_node": GPUS, "policy": "spread", "base_port": base + 1},
        "context_servers": {"num_instances": count - 1, "command": serve},
        "generation_servers": {"num_instances": 1, "command": serve},
        "router": {"name": "command", "command": ["python3", "-S", WORKER, "{port}", "0", str(folder), "{host}"]},
        "slurm": {"site": "testcluster", "time": "20"},
    }
    spec.write_text(json.dumps(wanted))  # JSON is YAML
    run = folder / "run"
    ours = [login, sys.executable, "-m", "disagg_launch"]
    job = subprocess.run([*ours, "submit", str(spec), "--run", str(run)], check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run([*ours, "wait", str(run), "--limit-s", str(LIMIT_S)], check=True, capture_output=True)
        told = [json.loads(line) for line in (run / "state/events.jsonl").read_text().splitlines()]
        return next(one["t"] for one in told if one["event"] == "router")
    finally:
        subprocess.run([*ours, "cancel", str(run)], check=True, capture_output=True)
        _over(login, job)


def script_s(login, folder, own, count, load_s, loop_s):
    """Seconds from a batch script's first line to its open router, with an srun for each worker."""
    base = random.randrange(10_000, 30_000)
    script = folder / "job.sh"
    script.write_text(f"""#!/bin/bash
began=$(date +%s.%N)
hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
for n in $(seq 0 {count - 1}); do
    host=${{hosts[$((n % {NODES}))]}}
    srun --overlap -N1 -n1 -w $host python3 -S {WORKER} $(({base} + n)) {load_s} {own} $host &
done
for n in $(seq 0 {count - 1}); do
    until curl -sf -o /dev/null http://${{hosts[$((n % {NODES}))]}}:$(({base} + n))/health; do sleep {loop_s}; done
done
python3 -S {WORKER} {base + count} 0 {folder} ${{hosts[0]}} &
until curl -sf -o /dev/null http://${{hosts[0]}}:{base + count}/health; do sleep {loop_s}; done
echo "$began $(date +%s.%N)" > {folder}/took
""")
    argv = [login, "sbatch", "--parsable", f"-N{NODES}", "--exclusive", f"--output={folder}/out", str(script)]
    job = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()
    deadline = time.monotonic() + LIMIT_S
    try:
        while not (folder / "took").exists() or not (folder / "took").read_text().endswith("\n"):
            if time.monotonic() > deadline:
                raise RuntimeError((folder / "out").read_text())
            time.sleep(0.2)
        began, opened = map(float, (folder / "took").read_text().split())
        return opened - began
    finally:
        subprocess.run([login, "scancel", job], check=False, capture_output=True)
        _over(login, job)


def _over(login, job):
    """Wait until the job has left the nodes."""
    while subprocess.run([login, "squeue", "-h", "-j", job], capture_output=True, text=True, check=False).stdout.strip():
        time.sleep(0.2)
