"""Writes what the gateway says of itself and of its workers, in a thread of its own: a shared file system that stalls must not silence it.

Workers on other nodes end themselves when they have not heard of their gateway for a while, and a server of files may well take longer
than that to come back. Nobody who serves waits for what is written here, or ends because it cannot be.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from disagg_launch.runtime.folder import write_private

OUT, ERR = "&1", "&2"
"""What stands for standard output and standard error in place of a path."""
MOST_BYTES = 64 << 20
"""So much may wait to be appended; what comes then is lost: whoever stalls for so long was named by the board before."""
LAST_WORDS_S = 10.0
"""So long the end waits for what was said to be written."""

Told = Callable[[Optional[OSError]], None]


class Scribe:
    """Files that are appended to and files that are put in place whole. Safe to call from every thread; the first call starts its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._appends: Dict[str, List[str]] = {}
        self._puts: Dict[str, Tuple[str, Told]] = {}
        self._modes: Dict[str, int] = {}
        self._waiting_bytes = 0
        self._busy_since = 0.0
        self._files: Dict[str, int] = {OUT: 1, ERR: 2}  # the thread's own

    def append(self, path: str, text: str, mode: int = 0o666) -> None:
        """Have `text` written at the end of a file, made with `mode` if it is not there; lost on a full disk and beyond MOST_BYTES."""
        with self._changed:
            if self._waiting_bytes > MOST_BYTES:
                return
            self._waiting_bytes += len(text)
            self._modes[path] = mode
            self._appends.setdefault(path, []).append(text)
            self._wake()

    def put(self, path: str, text: str, told: Told) -> None:
        """Have a file replaced as a whole, readable by its owner only; `told` hears None or what went wrong, in the thread.

        What nobody could write before the next `put` of the same file is forgotten.
        """
        with self._changed:
            self._puts[path] = text, told
            self._wake()

    def flush(self, patience_s: float) -> bool:
        """Wait until all that was asked for is done, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._appends or self._puts or self._busy_since), patience_s)

    @property
    def behind_s(self) -> float:
        """How long the thread has been at work on what it writes now; 0 when it has nothing to do."""
        since = self._busy_since
        return time.monotonic() - since if since else 0.0

    def close(self, patience_s: float) -> None:
        """Finish, at most for so long, and let go of the files."""
        if self.flush(patience_s):
            for path in [one for one in self._files if one not in (OUT, ERR)]:
                os.close(self._files.pop(path))

    # ---- the thread ---------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="scribe", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy_since = 0.0
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._appends or self._puts)
                self._busy_since = time.monotonic()
                appends, self._appends = self._appends, {}
                puts, self._puts = self._puts, {}
                self._waiting_bytes = 0
            for path, texts in appends.items():
                with contextlib.suppress(OSError):
                    self._write(path, "".join(texts).encode("utf-8", "replace"))
            for path, (text, told) in puts.items():
                told(_put(path, text))

    def _write(self, path: str, data: bytes) -> None:
        if path not in self._files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._files[path] = os.open(path, flags, self._modes[path])
        left = memoryview(data)
        while left:
            left = left[os.write(self._files[path], left) :]


def _put(path: str, text: str) -> Optional[OSError]:
    try:
        write_private(path, text)
    except OSError as problem:
        return problem
    return None


FILES, VOICE = Scribe(), Scribe()
"""For the run folder, and for the terminal or whatever our output goes to: who presses Ctrl-S there wants the logs all the same."""
