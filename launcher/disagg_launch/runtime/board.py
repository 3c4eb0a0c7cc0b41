"""What people and programs see of a run: progress on standard error, state/status.json, state/verdict.json, logs/gateway.log."""

from __future__ import annotations

import collections
import json
import os
import shutil
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from disagg_launch.runtime.readiness import SCHEDULED, STAGES, UP, Observation, far
from disagg_launch.runtime.record import timestamp
from disagg_launch.runtime.scribe import ERR, FILES, LAST_WORDS_S, OUT, VOICE

PAINT_S = 0.1
SAVE_S = 0.5
FINAL_S = 0.5
"""Whoever waited for a change asks for the status next: it is there by then, if the file system takes no longer."""
BEHIND_S = 5.0
"""A file system that takes longer than this for a few lines is worth a word."""
MANY = 24
"""More instances than this are shown as counts, with the first few that are not ready by name."""
STEP_WIDTH = 22
MARKS = {stage: "=" * number + "." * (len(STAGES) - 1 - number) for number, stage in enumerate(STAGES)}


class Board:
    """Shows and saves what changed, not more often than an eye or a disk likes."""

    def __init__(self, run: str, quiet: bool, opened: Optional[Callable[[], None]] = None) -> None:
        self.run = run
        self._opened = opened
        self._quiet = quiet
        self._live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._log, self._status = os.path.join(run, "logs", "gateway.log"), os.path.join(run, "state", "status.json")
        self._shown: Dict[str, str] = {}
        self._painted_lines = 0
        self._painted_at = self._saved_at = 0.0
        self.owes = False
        self._began = time.monotonic()
        self._trouble = self._refused = ""

    def note(self, text: str) -> None:
        """One event: a line in logs/gateway.log, and on standard error."""
        self._keep(text)
        self._say(text)

    def ready(self, url: str, page: str = "") -> None:
        """The one line on standard output, which programs wait for; and where a person may look, if the router has a `page` (a URL)."""
        if page:
            self._say(f"watch it: {page}")
        self._keep(f"ready: {url}")
        VOICE.append(OUT, f"ready: {url}\n")
        if self._opened is not None:
            VOICE.flush(FINAL_S)  # it cuts us off from the terminal
            self._opened()

    def progress(self, observations: Sequence[Observation], final: bool = False) -> None:
        """The stage of every instance: redrawn in place on a terminal, otherwise one line per change."""
        now = time.monotonic()
        if not final and now - self._painted_at < PAINT_S:
            return
        self._painted_at = now
        if self._live and not self._quiet:
            self._paint(self._summary(observations) if len(observations) > MANY else [_line(one) for one in observations])
        elif len(observations) > MANY:
            self._changed("", self._summary(observations)[0])
        else:
            for one in observations:
                if one.stage != SCHEDULED:
                    self._changed(one.instance, far(one.stage, one.phase))

    def save(self, status: Callable[[], Dict[str, Any]], final: bool = False) -> None:
        """state/status.json, if the last is SAVE_S old or it is `final`; otherwise it is owed. What is wrong with the disk is said once."""
        now = time.monotonic()
        self.owes = not final and now - self._saved_at < SAVE_S
        if self.owes:
            return
        self._saved_at = now
        slow = FILES.behind_s > BEHIND_S
        trouble = f"nothing can be written to {self.run}: its file system does not answer; everybody serves on" if slow else self._refused
        if trouble not in ("", self._trouble):
            self.note(trouble)
        self._trouble = trouble
        FILES.put(self._status, in_rows({**status(), "written": timestamp()}) + "\n", self._put)
        if final:
            FILES.flush(FINAL_S)

    def close(self) -> None:
        """The last line has been said."""
        FILES.close(LAST_WORDS_S)
        VOICE.flush(FINAL_S)

    def _put(self, problem: Optional[OSError]) -> None:
        self._refused = f"state/status.json cannot be written ({problem.strerror}): make room; everybody serves on" if problem else ""

    def _keep(self, text: str) -> None:
        FILES.append(self._log, f"{timestamp()} {text}\n")

    def _changed(self, name: str, text: str) -> None:
        if self._shown.get(name) != text:
            self._shown[name] = text
            self._say(f"{self._elapsed()} {name + ': ' if name else ''}{text}")

    def _summary(self, observations: Sequence[Observation]) -> List[str]:
        counts = collections.Counter(one.stage for one in observations)
        head = f"{len(observations)} instances: " + ", ".join(f"{counts[s]} {s}" for s in STAGES if counts[s])
        late = [_line(one) for one in observations if one.stage not in UP]
        return [head, *late[: MANY // 2]]

    def _paint(self, lines: List[str]) -> None:
        width = shutil.get_terminal_size().columns - 1
        up = f"\x1b[{self._painted_lines}F\x1b[J" if self._painted_lines else ""
        VOICE.append(ERR, up + "".join(f"{self._elapsed()} {line}"[:width] + "\n" for line in lines))
        self._painted_lines = len(lines)

    def _say(self, text: str) -> None:
        if not self._quiet:
            VOICE.append(ERR, text + "\n")
            self._painted_lines = 0

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:6.1f} s"


def in_rows(value: Mapping[str, Any]) -> str:
    """JSON with a line for each member, and for each element of a list in it; the encoder's own indentation takes ten times as long."""

    def text(member: Any) -> str:
        if not isinstance(member, list) or not member:
            return json.dumps(member)
        return "[\n  " + ",\n  ".join(map(json.dumps, member)) + "\n ]"

    return "{\n " + ",\n ".join(f"{json.dumps(name)}: {text(member)}" for name, member in value.items()) + "\n}"


def _line(one: Observation) -> str:
    step = far(one.stage, one.phase, one.percent)
    return f"[{MARKS[one.stage]}] {one.instance:8} {step:{STEP_WIDTH}} {one.last_line or one.detail}".rstrip()
