"""What docs/watching.md shows, taken from real runs: `make screens`.

Starts a deployment with the embedded engine and sends requests, rehearses one of three hundred instances, looks at both in a terminal of
80 x 24 characters, and puts what is seen behind each `<!-- screen: NAME -->` of the page, and the start-up's picture beside it.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / "watch"), str(ROOT / "tests" / "e2e")]

from conftest import SPEC  # noqa: E402
from free_ports import free_ports  # noqa: E402
from large import LARGE  # noqa: E402
from watched import CLI, Terminal, Watched  # noqa: E402

PAGE = ROOT / "docs" / "watching.md"


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs, and ends in order."""
    process = subprocess.Popen([*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def three(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(name, text) of what is seen of three instances."""
    base = free_ports(20)
    (folder / "laptop.yaml").write_text("name: laptop\n" + SPEC.format(port=base, base=base + 1))
    with started("up", str(folder / "laptop.yaml"), "--run", str(folder / "laptop")) as process:
        assert process.stdout is not None
        one = Watched(folder / "laptop", process.stdout.readline().removeprefix("ready: ").strip(), process)
        over = threading.Event()
        clients = [threading.Thread(target=lambda: [one.ask(32) for _ in iter(over.is_set, True)]) for _ in range(3)]
        for client in clients:
            client.start()
        terminal = Terminal("top", str(one.run))
        terminal.until(lambda text: re.search(r"[1-9]\d* tokens/s", text) and "KV" in text and "-  ITL" not in text)
        yield "top", terminal.settled()
        terminal.press("q")
        yield "plain", one.cli("top", str(one.run), "--once")
        yield "trace", one.cli("trace", str(one.run), "--svg", str(ROOT / "docs" / "start-up.svg"))
        over.set()
        for client in clients:
            client.join()


def three_hundred(folder: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(name, text) of what is seen of three hundred while they start."""
    base = free_ports(400)
    (folder / "large.yaml").write_text(LARGE.format(port=base, base=base + 1))
    with started("rehearse", str(folder / "large.yaml"), "--run", str(folder / "large"), "--seconds", "1"):
        while not (folder / "large" / "state" / "status.json").exists():
            time.sleep(0.1)
        terminal = Terminal("top", str(folder / "large"))
        terminal.until(lambda text: re.search(r"(1[2-9]|2[0-8])\d (healthy|proved|routed)", text), 600)
        yield "top-300", terminal.settled()
        terminal.press("q")


def main() -> None:
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory(prefix="disagg-launch-screens-") as name:
        folder = pathlib.Path(name)
        for title, seen in (*three(folder), *three_hundred(folder)):
            shown = "\n".join(f"    {line}".rstrip() for line in seen.rstrip().splitlines())
            text, count = re.subn(rf"(<!-- screen: {title} -->\n)\n(?:(?:    .*)?\n)*", lambda m, s=shown: f"{m[1]}\n{s}\n\n", text)
            assert count == 1, f"{PAGE}: no place for the screen {title}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
