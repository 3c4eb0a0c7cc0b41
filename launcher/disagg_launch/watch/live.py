"""The terminal view as it lives: keys from the terminal, snapshots from a thread beside it, a picture whenever one of them has come."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from disagg_launch.errors import DisaggError
from disagg_launch.watch.keys import DOWN, END, HOME, LOG, PAGE_DOWN, PAGE_UP, UP, View, chosen, pressed
from disagg_launch.watch.look import Look
from disagg_launch.watch.screen import screen
from disagg_launch.watch.shape import Snapshot

ESCAPES = {"[A": UP, "[B": DOWN, "[5~": PAGE_UP, "[6~": PAGE_DOWN, "[H": HOME, "[F": END, "[1~": HOME, "[4~": END, "OA": UP, "OB": DOWN}
TAIL_BYTES = 1 << 16
RESIZED_S = 0.5
"""The picture is painted at least so often: the window may have another size."""


def watch(look: Look, interval_s: float) -> None:
    """Show the deployment until somebody leaves. Standard input and output are a terminal."""
    with _Looking(look, interval_s) as looking, _keyboard() as keyboard, Live(screen=True, auto_refresh=False) as live:
        _Watching(look.run, looking, live.console).run(keyboard, live)


class _Watching:
    """One person at one terminal."""

    def __init__(self, run: Path, looking: _Looking, console: Console) -> None:
        self._run, self._looking, self._console = run, looking, console
        self._view = View()
        self._shot: Snapshot = looking.last
        self._restart: Optional[subprocess.Popen[str]] = None
        self._restarting = ""

    def run(self, keyboard: int, live: Live) -> None:
        while not self._view.left:
            live.update(Group(*self._picture()), refresh=True)
            heard, _, _ = select.select([keyboard, self._looking.told], [], [], RESIZED_S)
            if keyboard in heard:
                for key in keys(os.read(keyboard, 1024)):
                    self._view = pressed(self._view, key, self._shot)
            self._looking.hear()
            if not self._view.held:
                self._shot = self._looking.last
            self._see_to_restart()

    def _picture(self) -> list[Text]:
        width, height = self._console.size
        log: list[str] = []
        if self._view.page == LOG and (one := chosen(self._view, self._shot)):
            log = tail(self._run / "logs" / f"{one['name']}.log")
        view = replace(self._view, said=self._view.said or self._looking.trouble)
        return screen(self._shot, view, width, height, log)

    def _see_to_restart(self) -> None:
        """Begin the restart that was asked for, or say how it went."""
        wanted, self._view = self._view.restart, replace(self._view, restart="")
        if wanted and self._restart is None:
            argv = [sys.executable, "-m", "disagg_launch", "restart", str(self._run), wanted]
            self._restart = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._restarting = wanted
            self._view = replace(self._view, said=f"{wanted} is drained and restarted")
        elif wanted:
            self._view = replace(self._view, said=f"{self._restarting} is being restarted: one after the other")
        elif self._restart is not None and self._restart.poll() is not None:
            _, said = self._restart.communicate()
            how = "is back" if self._restart.returncode == 0 else "was not restarted: " + " ".join(said.split())
            self._view, self._restart = replace(self._view, said=f"{self._restarting} {how}"), None


class _Looking:
    """Looks every `interval_s` in a thread: a router that does not answer must not hold up the keys."""

    def __init__(self, look: Look, interval_s: float) -> None:
        self._look, self._interval_s = look, interval_s
        self._over = threading.Event()
        self.last = look()
        self.trouble = ""
        self.told, self._tell = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Looking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def hear(self) -> None:
        """Take note that there is news."""
        if select.select([self.told], [], [], 0)[0]:
            os.read(self.told, 1024)

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                self.last, self.trouble = self._look(), ""
            except DisaggError as wrong:
                self.trouble = str(wrong)
            os.write(self._tell, b".")


@contextlib.contextmanager
def _keyboard() -> Iterator[int]:
    """Standard input, key by key and without echo; as it was afterwards. Ctrl-C stays a signal."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def keys(typed: bytes) -> Iterator[str]:
    """The keys in what a terminal sent: characters, or the names of `keys` for arrows and the like."""
    text = typed.decode("utf-8", "replace")
    at = 0
    while at < len(text):
        name = next((name for name in ESCAPES if text.startswith("\x1b" + name, at)), None)
        yield ESCAPES[name] if name else text[at]
        at += 1 + len(name or "")


def tail(path: Path) -> list[str]:
    """The last lines of a log, oldest first; [] if there is none."""
    try:
        with path.open("rb") as file:
            whole = file.seek(0, os.SEEK_END) <= TAIL_BYTES
            file.seek(0 if whole else -TAIL_BYTES, os.SEEK_SET if whole else os.SEEK_END)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return lines if whole else lines[1:]
