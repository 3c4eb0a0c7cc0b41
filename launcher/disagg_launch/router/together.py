"""Several parts of one request at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Coroutine, Iterable


async def together(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All parts have ended well; or one has failed, which ended the others and is raised when they have ended."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.gather(*map(_cancelled, tasks), return_exceptions=True)
        tasks.clear()  # what they raised knows this frame: nothing of it may know them


def _cancelled(task: asyncio.Task[None]) -> asyncio.Task[None]:
    task.cancel()
    return task
