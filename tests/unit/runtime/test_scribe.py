"""What the gateway appends to: a file that is cut off in place, as by logrotate's copytruncate, goes on from its beginning."""

from __future__ import annotations

import asyncio
import os
import pathlib
from types import SimpleNamespace
from typing import Any

from disagg_launch.router.access import AccessLog
from disagg_launch.runtime.scribe import Scribe


def test_a_log_that_is_cut_off_goes_on_without_a_hole(tmp_path: pathlib.Path) -> None:
    scribe, log = Scribe(), tmp_path / "ctx0.log"
    scribe.append(str(log), "before\n" * 100_000)
    assert scribe.flush(60)
    os.truncate(log, 0)
    scribe.append(str(log), "after\n")
    scribe.close(60)
    assert log.read_text() == "after\n"


def test_the_access_log_too(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "access.jsonl"
    one: Any = SimpleNamespace(
        began=0.0, id=1, chat=True, stream=True, client="c", ctx="ctx0", gen="gen0", retries=0, queued_s=0.0, prefilled=0.0, first=0.0
    )

    async def requests() -> None:
        access = AccessLog(str(log))
        for _ in range(2):
            os.truncate(log, 0)
            access.add(one, 200)
            access.flush()
            while not log.stat().st_size:  # a thread writes it
                await asyncio.sleep(0.01)
        await access.close()

    asyncio.run(asyncio.wait_for(requests(), 20))
    assert len(log.read_text().splitlines()) == 1
