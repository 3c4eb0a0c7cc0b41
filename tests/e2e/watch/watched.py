"""What the tests do with a deployment, and a terminal to watch it in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pyte
import requests

CLI = [sys.executable, "-m", "disagg_launch"]


@dataclass
class Watched:
    run: Path
    url: str
    process: subprocess.Popen[str]

    def ask(self, tokens: int = 8) -> None:
        """One request, streamed to its end."""
        body = {"model": "m", "prompt": "hello", "max_tokens": tokens, "stream": True}
        assert "[DONE]" in requests.post(f"{self.url}/v1/completions", json=body, timeout=120).text

    def cli(self, *words: str) -> str:
        """What a command printed; it must have gone well."""
        done = subprocess.run([*CLI, *words], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "state" / "events.jsonl").read_text().splitlines()]


class Terminal:
    """A terminal of 80 x 24 characters in which a command runs."""

    def __init__(self, *words: str, width: int = 80, height: int = 24) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        environ = {**_environ(), "TERM": "xterm-256color"}
        self.child = pexpect.spawn(CLI[0], [*CLI[1:], *words], dimensions=(height, width), env=environ, preexec_fn=_heed_ctrl_c)

    def until(self, condition: Callable[[str], Any], limit_s: float = 120) -> Any:
        """What `condition` says of the screen's text as soon as that is true."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                self._stream.feed(self.child.read_nonblocking(65536, 0.2))
            except pexpect.TIMEOUT:
                pass
            except pexpect.EOF:
                break
            if found := condition(self.text()):
                return found
        raise AssertionError(f"it was not shown:\n{self.text()}")

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def settled(self) -> str:
        """The text between two frames: a frame comes in pieces, and the last one read may be half of it."""
        try:
            while True:
                self._stream.feed(self.child.read_nonblocking(65536, 0.1))
        except (pexpect.TIMEOUT, pexpect.EOF):
            return self.text()

    def press(self, key: str) -> None:
        self.child.send(key)

    def left(self) -> int:
        """The exit status, once the command has ended."""
        self.child.expect(pexpect.EOF, timeout=60)
        self.child.close()
        return int(self.child.exitstatus)


def _heed_ctrl_c() -> None:
    # tests started in the background of a shell are born deaf to it, and so would be whom they start
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
