"""Milliseconds from the last worker's health to the open front door and a client's first answer there, by `disagg-launch rehearse`.

    python bench/opening/run.py [--instances 4 64 300] [--repeats 5]

Half of the instances are context instances, the others generation instances, of one rank each, which load between 0.5 and 2 s. Beside it,
what one answer takes a client from then on, which says how fast the machine is just then; and what the gateway takes of a core at rest.
Medians, and the worst.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

SCENARIO = {"load_s": [0.5, 2.0], "serve_s": 4, "requests_per_s": 10}
COLUMNS = ("instances", "door open after", "first answer after", "one answer takes", "ratio", "gateway until ready", "gateway at rest")


def rehearsed(count):
    """What one rehearsal of `count` instances showed."""
    base = random.randrange(10_000, 30_000)
    servers = {"num_instances": count // 2}
    cluster = {"nodes": 1, "gpus_per_node": count, "base_port": base + 1}
    engine = {"name": "command", "command": ["not-there"]}
    topology = {
        "model": "none",
        "port": base,
        "context_servers": servers,
        "generation_servers": servers,
        "engine": engine,
        "cluster": cluster,
    }
    with tempfile.TemporaryDirectory(prefix="bench-opening-") as name:
        folder = pathlib.Path(name)
        (folder / "spec.yaml").write_text(json.dumps(topology))  # JSON is YAML
        (folder / "calm.yaml").write_text(json.dumps(SCENARIO))
        words = ["spec.yaml", "--scenario", "calm.yaml", "--run", "run", "--json"]
        command = [sys.executable, "-m", "disagg_launch", "rehearse", *words]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder).stdout)


def row(count, seen):
    """The line of the table for these rehearsals."""

    def ms(name):
        values = [1000 * one[name] for one in seen]
        return f"{statistics.median(values):.0f} ms (worst {max(values):.0f})"

    ratio = statistics.median(one["answer_after_s"] / one["answer_s"] for one in seen)
    start, rest = (statistics.median(one[name] for one in seen) for name in ("start_cpu_s", "rest_share"))
    cells = [
        count,
        ms("open_after_s"),
        ms("answer_after_s"),
        ms("answer_s"),
        f"{ratio:.1f}",
        f"{start:.2f} s of CPU",
        f"{100 * rest:.1f} %",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="*", default=[4, 64, 300])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for count in options.instances:
        print(row(count, [rehearsed(count) for _ in range(options.repeats)]), flush=True)


if __name__ == "__main__":
    main()
