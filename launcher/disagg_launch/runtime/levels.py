"""How grave a line of a log is, in the formats of the engines, libraries and launchers that write into ours."""

from __future__ import annotations

import re

ERROR, WARNING, INFO, DEBUG = LEVELS = ("error", "warning", "info", "debug")
SHOWN_CHARACTERS = 400
"""A level stands in front."""

# Whichever level stands first in a line decides: an INFO line may quote an error.
_PATTERNS = {
    ERROR: (
        r"\b(?:ERROR|CRITICAL|FATAL|Fatal|SEVERE|PANIC)\b",
        r"\[E\]",
        r"(?:^|\[)[EF]\d{3,4} \d\d:\d\d:",  # glog, and PyTorch's form of it
        r"\b(?:[Ee]rror|fatal|panic): ",
        r"\blevel=(?:error|fatal|panic)\b",
        r"\"level\": ?\"(?:error|fatal|critical)",
        r"Traceback \(most recent",
        r"(?:^|[\s\]])(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::|$)",  # the last line of a traceback
        r"^terminate called",
        r"^Segmentation fault",
        r"panicked at",
        r"^Abort\(\d+\)",  # MPICH
        r"\*\*\* An error occurred",  # Open MPI
        r"noticed that process rank",
        r"BAD TERMINATION",
        r"oom[-_]kill event",
        r"^disagg[-_]launch[\w.]*: ",
    ),
    WARNING: (
        r"\b(?:WARNING|WARN)\b",
        r"\[W\]",
        r"(?:^|\[)W\d{3,4} \d\d:\d\d:",
        r"\b\w*[Ww]arning: ",
        r"\blevel=warn",
        r"\"level\": ?\"warn",
    ),
    INFO: (r"\b(?:INFO|NOTICE)\b", r"\[I\]", r"(?:^|\[)I\d{3,4} \d\d:\d\d:", r"\blevel=info", r"\"level\": ?\"info"),
    DEBUG: (r"\b(?:DEBUG|TRACE|VERBOSE)\b", r"\[[DV]\]", r"\blevel=(?:debug|trace)", r"\"level\": ?\"(?:debug|trace)"),
}
_LEVEL = re.compile("|".join(f"(?P<{level}>{'|'.join(patterns)})" for level, patterns in _PATTERNS.items()))
# a line without any of these shows no level: looking for words is a hundred times faster than the pattern
_HINTS = (
    "error", "warn", "info", "debug", "crit", "fatal", "notice", "trace", "verbose", "severe", "panic", "exception", "interrupt", "exit",
    "abort", "terminate called", "segmentation fault", "disagg", "bad termination", "oom",
)  # fmt: skip
_MARKS = ("[E]", "[W]", "[I]", "[D]", "[V]")
_GLOG = re.compile(r"(?:\[\w+\]:)?\[?[EFWI]\d{3,4} ")
# what vLLM and Python's logging put before each line of a traceback
_PREFIX = re.compile(r"^(?:\([^)]*\) )*(?:ERROR|CRITICAL) \d\d-\d\d [\d:.]+ (?:\[?[\w./]+:\d+\]) ?|^\[rank\d+\]: ?")


def level_of(text: str) -> str:
    """One of LEVELS; "" when the line does not show any."""
    start = text[:SHOWN_CHARACTERS]
    low = start.lower()
    if not any(hint in low for hint in _HINTS) and not any(mark in start for mark in _MARKS) and not _GLOG.match(start):
        return ""
    found = _LEVEL.search(start)
    return found.lastgroup or "" if found else ""


def continues(text: str) -> bool:
    """Whether a line goes on with what the line before it says: a frame of a traceback, or anything indented.

    Not what pydantic finds wrong with a value: the line before it says only that there is something.
    """
    said = _PREFIX.sub("", text, count=1)
    return not said.strip() or (said[0] in " \t" and "[type=" not in said)
