"""The error tree, which is also the exit-code table. Standard library only: both halves raise these.

| code | class | meaning |
|---|---|---|
| 0 | - | done |
| 1 | DisaggError | a rehearsal did not go as its scenario expects |
| 2 | BadInput | bad use or a bad file |
| 3 | DoesNotFit | the instances do not fit the nodes |
| 4 | BackendRefused | the backend is missing or refused (also: the engine is missing on the node) |
| 5 | NotReady | not ready in time |
| 6 | WorkerDied | a worker died |
| 70..75 | RankRefused | one rank stopped itself before its worker began (see RankRefused) |
| 130, 143 | - | SIGINT, SIGTERM |
"""


class DisaggError(Exception):
    """Base of everything a user may meet; `exit_code` is the process's exit status, str() the whole message."""

    exit_code = 1


class BadInput(DisaggError):
    """Bad command line or bad file; the message holds all complaints, one per line."""

    exit_code = 2


class DoesNotFit(DisaggError):
    """The instances do not fit the nodes; the message holds the arithmetic and the nearest thing that fits."""

    exit_code = 3


class BackendRefused(DisaggError):
    """mpirun, Slurm, an engine or another program is missing or said no."""

    exit_code = 4


class NotReady(DisaggError):
    """Time ran out; the message names who is not ready and what each last said."""

    exit_code = 5


class WorkerDied(DisaggError):
    """A worker ended; the message names it, its exit code or signal, and its last log lines."""

    exit_code = 6


class RankRefused(DisaggError):
    """A rank stopped itself before its worker began. Each cause has its own exit status."""

    STALE_PLAN = 70
    WRONG_WORLD_SIZE = 71
    GPU_MISSING = 72
    PORT_TAKEN = 73
    GATEWAY_LOST = 74
    NO_RANK = 75

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
