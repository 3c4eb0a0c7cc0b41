"""The storage that the front door keeps in its own memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from disagg_launch.runtime.stores import DELETED, EXPIRED, FOREVER, SET, Change

SWEEP_S = 1.0
LONGEST_STEP_S = 2 * SWEEP_S
"""Entries age at most so much between two looks: when the loop stalls, or the machine sleeps, heartbeats could not come in either."""


@dataclass(slots=True)
class _Entry:
    value: str
    deadline_s: float | None


class Memory:
    """A watched store (see `WatchedStore`) for one thread. `now` is a monotonic clock; `sweep` is to be called every SWEEP_S."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen_s = now()
        self._age_s = 0.0
        self._entries: dict[str, _Entry] = {}
        self._watches: list[tuple[str, Callable[[Change], None]]] = []

    def set(self, key: str, value: str, ttl_s: float = FOREVER, overwrite: bool = False) -> bool:
        """See Store."""
        if self._entry(key) is not None and not overwrite:
            return False
        self._entries[key] = _Entry(value, self._deadline(ttl_s))
        self._tell(Change(SET, key, value))
        return True

    def get(self, key: str) -> str | None:
        """See Store."""
        entry = self._entry(key)
        return None if entry is None else entry.value

    def delete(self, key: str) -> bool:
        """See Store."""
        if self._entry(key) is None:
            return False
        self._drop(key, DELETED)
        return True

    def expire(self, key: str, ttl_s: float) -> bool:
        """See Store."""
        entry = self._entry(key)
        if entry is None:
            return False
        entry.deadline_s = self._deadline(ttl_s)
        return True

    def prefix(self, prefix: str, keys_only: bool = False) -> dict[str, str]:
        """See Store."""
        self.sweep()
        return {key: "" if keys_only else entry.value for key, entry in self._entries.items() if key.startswith(prefix)}

    def watch(self, prefix: str, hear: Callable[[Change], None]) -> Callable[[], None]:
        """See WatchedStore; `hear` is called before the call that changed something comes back."""
        watch = (prefix, hear)
        for key, value in self.prefix(prefix).items():
            hear(Change(SET, key, value))
        self._watches.append(watch)
        return lambda: self._watches.remove(watch) if watch in self._watches else None

    def sweep(self) -> None:
        """Drop what nobody refreshed in time."""
        now_s = self._clock()
        late = [key for key, entry in self._entries.items() if entry.deadline_s is not None and entry.deadline_s <= now_s]
        for key in late:
            self._drop(key, EXPIRED)

    def _entry(self, key: str) -> _Entry | None:
        now_s = self._clock()
        entry = self._entries.get(key)
        if entry is not None and entry.deadline_s is not None and entry.deadline_s <= now_s:
            self._drop(key, EXPIRED)
            return None
        return entry

    def _drop(self, key: str, kind: str) -> None:
        del self._entries[key]
        self._tell(Change(kind, key))

    def _tell(self, change: Change) -> None:
        for prefix, hear in list(self._watches):
            if change.key.startswith(prefix):
                hear(change)

    def _deadline(self, ttl_s: float) -> float | None:
        return None if ttl_s < 0 else self._clock() + ttl_s

    def _clock(self) -> float:
        """Seconds in which this store was looked after."""
        now = self._now()
        self._age_s += min(now - self._seen_s, LONGEST_STEP_S)
        self._seen_s = now
        return self._age_s
