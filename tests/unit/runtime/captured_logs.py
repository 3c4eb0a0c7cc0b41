"""What programs really said when they failed: the logs in captured/, as they came; only names of users, hosts and folders are made neutral.

The first three lines of each are ours: `# cause: NAME` of the entry that has to be found (or "none"), `# made: ` and what was done, and
how it ended: `# end: ` for a rank, `# reason: ` for the gateway, `# job: ` for Slurm in the words of `explain`.
"""

import pathlib
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parent / "captured"


class CapturedLog(NamedTuple):
    """`over`: "end", "reason" or "job"; `how`: what that says."""

    name: str
    cause: str
    made: str
    over: str
    how: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All that was said, with how it ended."""
        return "\n".join([self.how, *self.lines])


def captured_logs() -> list[CapturedLog]:
    """All of them."""
    return [_read(path) for path in sorted(FOLDER.glob("*.log"))]


def _read(path: pathlib.Path) -> CapturedLog:
    first, second, third, *lines = path.read_text(encoding="utf-8").splitlines()
    over, how = third.removeprefix("# ").split(": ", 1)
    return CapturedLog(path.stem, first.removeprefix("# cause: "), second.removeprefix("# made: "), over, how, tuple(lines))
