"""Tokens per second of the reference engine in several layouts, side by side with transformers where it is installed.

    python bench/engine/run.py [--model smollm2-135m] [--rounds 5] [--layouts 1x1 2x1 1x2 2x2]

Columns: a prompt of 256 tokens, decoding one sequence, decoding eight; best and median of the rounds. A layout is TPxPP; more than one rank
runs under mpiexec. Everything is measured at the ranks, without HTTP. The transformers rows are a Llama of the same shape in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

PROMPT, BATCH, NEW = 256, 8, 16
Speeds = dict[str, list[float]]


def main() -> None:
    """Print the table; with --measure, one layout's speeds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layouts", nargs="+", default=["1x1", "2x1", "3x1", "1x2", "2x2"])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.model, options.rounds)
        return
    print(f"{options.model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; tokens per second, best / median of {options.rounds}\n")
    print(f"{'':26}{'prefill ' + str(PROMPT):>18}{'decode 1':>18}{f'decode {BATCH} (sum)':>18}")
    for threads in ("1", "2"):
        report(f"1 rank, {threads} BLAS threads", run("1x1", options, threads))
    for layout in options.layouts[1:]:
        report(f"TP x PP {layout}", run(layout, options, "1"))
    for threads in ("1", "2"):
        report(f"transformers, {threads} threads", run("transformers", options, threads))


def run(layout: str, options: argparse.Namespace, threads: str) -> Speeds:
    """The speeds of one row, measured in processes of their own; empty if they cannot be."""
    ranks = 1 if layout == "transformers" else ranks_of(layout)
    beside = pathlib.Path(sys.executable).parent / "mpiexec"
    launcher = [str(beside) if beside.exists() else "mpiexec", "-n", str(ranks)] if ranks > 1 else []
    argv = [*launcher, sys.executable, __file__, "--measure", layout, "--model", options.model, "--rounds", str(options.rounds)]
    done = subprocess.run(argv, env={**os.environ, "DISAGG_THREADS": threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"why": [], (done.stderr.strip() or "no output").splitlines()[-1]: []}
    speeds: Speeds = json.loads(done.stdout.splitlines()[-1])
    return speeds


def ranks_of(layout: str) -> int:
    """The number of ranks of TPxPP."""
    tp, pp = map(int, layout.split("x"))
    return tp * pp


def report(name: str, speeds: Speeds) -> None:
    """Print a row."""
    if "why" in speeds:
        print(f"{name:26}left out: {list(speeds)[-1]}")
        return
    cells = (f"{max(values):.1f} / {statistics.median(values):.1f}" for values in speeds.values())
    print(f"{name:26}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def measure(layout: str, model: str, rounds: int) -> None:
    """Print one layout's speeds as JSON."""
    from disagg_launch.reference.serve import limit_threads

    limit_threads()
    speeds = of_transformers(model, rounds) if layout == "transformers" else of_engine(layout, model, rounds)
    if speeds:
        print(json.dumps(speeds))


def timed(tokens: int, work: Callable[[], object]) -> float:
    """Tokens per second of the work."""
    began = time.perf_counter()
    work()
    return tokens / (time.perf_counter() - began)


def of_engine(layout: str, name: str, rounds: int) -> Speeds:
    """Speeds of the reference engine, on the leader; empty on other ranks."""
    from disagg_launch.reference import models
    from disagg_launch.reference.comm import Comm, Solo
    from disagg_launch.reference.rank import Draw, Rank, Row, Step
    from disagg_launch.reference.sampling import Sampling

    tp, pp = map(int, layout.split("x"))
    comm: Comm = Solo()
    if tp * pp > 1:
        from mpi4py import MPI

        from disagg_launch.reference.mpi import MpiComm

        comm = MpiComm(MPI.COMM_WORLD)
    model = models.load(name)
    rank = Rank(model, tp, pp, comm)
    if comm.rank:
        rank.follow()
        return {}
    length = min(PROMPT, model.shape.context - NEW)
    draw = Draw(Sampling(), 0)

    def decode(batch: int) -> None:
        for i in range(NEW):
            rank.lead(Step(rows=tuple(Row(n, length + i, (20,), draw) for n in range(batch))))

    prompt = tuple(17 + n % 200 for n in range(length))
    speeds: Speeds = {"prefill": [], "one": [], "batch": []}
    for _ in range(rounds):
        rank.lead(Step(open=tuple((n, length + NEW) for n in range(BATCH))))
        for n in range(BATCH if not speeds["batch"] else 1):
            speed = timed(length, lambda n=n: rank.lead(Step(rows=(Row(n, 0, prompt, draw),))))
            speeds["prefill"].append(speed)
        speeds["one"].append(timed(NEW, lambda: decode(1)))
        speeds["batch"].append(timed(NEW * BATCH, lambda: decode(BATCH)))
        rank.lead(Step(close=tuple(range(BATCH))))
    rank.lead(Step(stop=True))
    return speeds


def of_transformers(name: str, rounds: int) -> Speeds:
    """Speeds of transformers on the CPU in float32, for a Llama of the same shape; its numbers are random, which changes no speed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from disagg_launch.reference import models

    shape = models.load(name).shape
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.groups * shape.repeat,
        num_key_value_heads=shape.groups,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
    )
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = LlamaForCausalLM(config).float().eval()

    def forward(tokens: int, batch: int, cache: object = None) -> object:
        with torch.inference_mode():
            return model(torch.full((batch, tokens), 20), past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    def decode(batch: int, cache: object) -> None:
        for _ in range(NEW):
            cache = forward(1, batch, cache)

    length = min(PROMPT, shape.context - NEW)
    speeds: Speeds = {"prefill": [], "one": [], "batch": []}
    for _ in range(rounds):
        speeds["prefill"].append(timed(length, lambda: forward(length, 1)))
        for key, batch in (("one", 1), ("batch", BATCH)):
            cache = forward(length, batch)
            speeds[key].append(timed(NEW * batch, lambda batch=batch, cache=cache: decode(batch, cache)))
    return speeds


if __name__ == "__main__":
    main()
