"""runtime.pyz: `rank` at once, because there may be thousands of them; every other command by way of `commands`."""

from __future__ import annotations

import os
import sys

from disagg_launch.errors import DisaggError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

RANK_OPTIONS = ("--launcher", "--step", "--digest")


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run one command; the exit status."""
    words = sys.argv[1:] if words is None else words
    try:
        options = rank_options(words)
        if options:
            from disagg_launch.runtime import bootstrap

            bootstrap.main(here(), options["--launcher"], options["--step"], options["--digest"], os.environ)
        from disagg_launch.runtime import commands

        return commands.main(words)
    except DisaggError as error:
        print(f"disagg-launch: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130  # before anybody has begun to listen for it


def rank_options(words: Sequence[str]) -> dict[str, str]:
    """The options of a `rank` command as scripts of ours write it; empty for everything else, which argparse judges then."""
    flat = [part for word in words[1:] for part in (word.split("=", 1) if word.startswith("--") else [word])]
    options = dict(zip(flat[::2], flat[1::2]))
    rendered = list(words[:1]) == ["rank"] and len(flat) == 6 and sorted(options) == sorted(RANK_OPTIONS)
    return options if rendered and known(options["--launcher"]) else {}


def known(launcher: str) -> bool:
    """Whether there is such a launcher."""
    from disagg_launch.runtime.launchers import LAUNCHERS

    return launcher in LAUNCHERS


def here() -> str:
    """The run folder: where this zipapp lies; when the code runs from a package, the working directory."""
    archive = getattr(globals().get("__loader__"), "archive", "")
    return os.path.dirname(os.path.abspath(archive)) if archive else os.getcwd()


if __name__ == "__main__":
    sys.exit(main())
