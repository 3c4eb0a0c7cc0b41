"""Scenes with a router in them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def play() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function within a time limit, so that nothing can hang."""

    def run(scene: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            await asyncio.wait_for(scene(), 60)

        asyncio.run(limited())

    return run
