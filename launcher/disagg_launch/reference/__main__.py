"""`python -m disagg_launch.reference MODEL ...`: one rank. Alone without MPI; several ranks under mpiexec."""

import sys

from disagg_launch.reference import serve


def main() -> int:
    """The exit status of this rank."""
    argv = sys.argv[1:]
    return serve.run(argv, serve.world(argv))


sys.exit(main())
