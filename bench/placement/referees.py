"""Random topologies before the cheap referees: Open MPI's mapper (one of three forms in turn) and MPICH's ranks.

    python bench/placement/referees.py [--count 2000] [--seed 7]

Exits with 1 at the first disagreement, both rows printed. Open MPI 5 lies in .mpi/openmpi5 (the tests fetch it).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e" / "layouts"))
from random_plans import plans  # noqa: E402
from referees import disagreements, hosts_of, mpich, open_mpi, write  # noqa: E402

from disagg_launch.layouts.table import FORMS  # noqa: E402
from disagg_launch.layouts.verify import disagreement  # noqa: E402

MPI_FORMS = ("rankfile", "map-by", "appfile")


def main() -> int:
    """Ask the referees, and print how many agreed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--first", type=int, default=0, help="begin with this topology of the seed's")
    given = parser.parse_args()
    mpirun, mpiexec = ROOT / ".mpi" / "openmpi5" / "bin" / "mpirun", Path(sys.executable).parent / "mpiexec"
    ranks, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, plan in enumerate(plans(given.seed, given.count)):
            if i < given.first:
                continue
            hosts, form = hosts_of(plan), MPI_FORMS[i % len(MPI_FORMS)]
            write(plan, hosts, folder, list(FORMS))
            ranks += len(plan.ranks)
            wrong = disagreements(plan, hosts, open_mpi(plan, folder, mpirun, form), f"Open MPI by {form}")
            wrong += disagreements(plan, hosts, mpich(plan, folder, mpiexec), "MPICH")
            read = ((f, disagreement(f, (folder / f.file).read_text(), plan, hosts)) for f in FORMS.values())
            wrong += [f"{form.file}: {text}" for form, text in read if text]
            if wrong:
                print(f"topology {i} of seed {given.seed}:", *wrong, sep="\n")
                return 1
            if i % 100 == 99:
                print(f"{i + 1} topologies, {ranks} ranks, {time.monotonic() - start:.0f} s: all agree", flush=True)
    print(f"{given.count - given.first} topologies, {ranks} ranks: Open MPI, MPICH and {len(FORMS)} readers agree with every plan")
    return 0


if __name__ == "__main__":
    sys.exit(main())
