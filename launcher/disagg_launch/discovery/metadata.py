"""A front door at a metadata server: the entries are read every refresh interval, and their workers asked whether they are well.

An entry whose worker does not answer twice in a row is deleted; ours puts itself in again when it is well.
To take a worker out: delete its key, wait for "left", stop it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from disagg_launch.runtime.cluster import Member
from disagg_launch.runtime.metadata import PREFIX, Metadata, read_entry
from disagg_launch.runtime.registrar import Probed, healthy
from disagg_launch.runtime.stores import DELETED, SET, Change, Unreachable

STRIKES = 2

log = logging.getLogger(__name__)


def as_member(value: str) -> Member:
    """The worker of an entry. ValueError if it is none."""
    found = read_entry(value)
    if found is None:
        raise ValueError(f"no worker's entry: {value[:200]}")
    role, url = found
    host, _, port = url.rpartition(":")
    return Member(url, host.strip("[]"), int(port), role)


class Poll:
    """Tells `hear` what changed between two readings. A server that does not answer says nothing about anybody."""

    def __init__(self, metadata: Metadata, hear: Callable[[Change], None]) -> None:
        self._metadata, self._hear = metadata, hear
        self._store = metadata.store()
        self._known: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                found = await asyncio.to_thread(self._store.prefix, PREFIX)
                self._compare(await self._well(found))
            except (Unreachable, ValueError, KeyError) as problem:
                log.warning("the metadata server cannot be read: %s", problem)
            await asyncio.sleep(self._metadata.refresh_interval)

    def _compare(self, found: dict[str, str]) -> None:
        for key in [key for key in self._known if key not in found]:
            self._hear(Change(DELETED, key))
        for key in [key for key in found if self._known.get(key) != found[key]]:
            self._hear(Change(SET, key, found[key]))
        self._known = found

    async def _well(self, found: dict[str, str]) -> dict[str, str]:
        """The entries of workers that answer; the others are deleted."""
        keys = [key for key, value in found.items() if read_entry(value) is not None]
        answers = await asyncio.gather(*(asyncio.to_thread(self._answers, found[key]) for key in keys))
        for key in [key for key, well in zip(keys, answers, strict=True) if not well]:
            log.warning("no answer from the worker of %s: the entry %s is deleted", found[key], key)
            await asyncio.to_thread(self._store.delete, key)
        return {key: found[key] for key, well in zip(keys, answers, strict=True) if well}

    def _answers(self, value: str) -> bool:
        member = as_member(value)
        return any(healthy(Probed(member.host, member.port), self._metadata.health_check_timeout) for _ in range(STRIKES))
