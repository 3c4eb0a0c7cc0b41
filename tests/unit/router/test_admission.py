"""Waiting is bounded and fair, sending again is budgeted, and neither depends on a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.router.admission import Queue
from disagg_launch.router.dispatch import Budget
from disagg_launch.router.exchange import Refused


class Desk:
    """Workers that are free, and who was given one."""

    def __init__(self, limit: int) -> None:
        self.queue = Queue(limit, 0)
        self.free = 0
        self.served: list[str] = []
        self.undone = 0
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def choose(self) -> Optional[Any]:
        if not self.free:
            return None
        self.free -= 1
        return object()

    def undo(self, worker: Any) -> None:
        self.undone += 1
        self.free += 1

    async def come(self, client: str, name: str) -> None:
        async def wait() -> None:
            await self.queue.wait(client, self.choose, self.undo, "busy")
            self.served.append(name)

        self.tasks[name] = asyncio.ensure_future(wait())
        for _ in range(3):
            await asyncio.sleep(0)

    async def release(self, count: int) -> None:
        self.free += count
        self.queue.advance()
        for _ in range(3):
            await asyncio.sleep(0)

    def shed(self) -> list[str]:
        return [name for name, task in self.tasks.items() if task.done() and isinstance(task.exception(), Refused)]

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert self.queue.length == 0


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_clients_take_turns_however_many_requests_each_has_waiting() -> None:
    async def scene() -> None:
        desk = Desk(0)
        for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
            await desk.come(name[0], name)
        await desk.release(3)
        assert desk.served == ["a1", "b1", "c1"]
        await desk.release(4)
        assert desk.served[3:] == ["a2", "b2", "a3", "a4"]
        await desk.end()

    play(scene)


def test_when_it_is_full_the_busiest_client_s_newest_request_gives_way() -> None:
    async def scene() -> None:
        desk = Desk(4)
        for name in ("a1", "a2", "a3", "a4"):
            await desk.come("a", name)
        await desk.come("b", "b1")
        assert desk.shed() == ["a4"] and desk.queue.length == 4
        await desk.come("a", "a5")  # it is itself the one with the most
        assert desk.shed() == ["a4", "a5"]
        await desk.release(4)
        assert desk.served == ["a1", "b1", "a2", "a3"]
        refused = desk.tasks["a5"].exception()
        assert isinstance(refused, Refused) and refused.status == 429 and refused.retry_after_s > 0
        await desk.end()

    play(scene)


def test_a_worker_given_at_the_moment_of_leaving_is_given_back() -> None:
    async def scene() -> None:
        desk = Desk(0)
        await desk.come("a", "a1")
        desk.free = 1
        desk.queue.advance()
        desk.tasks["a1"].cancel()
        await asyncio.sleep(0)
        assert desk.undone == 1 and desk.free == 1 and desk.queue.length == 0
        await desk.end()

    play(scene)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=40))
def test_nobody_is_lost_and_no_place_stays_taken(steps: list[tuple[str, int]]) -> None:
    async def scene() -> None:
        desk = Desk(5)
        for number, (client, freed) in enumerate(steps):
            await desk.come(client, f"{client}{number}")
            if freed:
                await desk.release(freed)
            assert desk.queue.length <= 5
        await desk.release(100)
        assert len(desk.served) + len(desk.shed()) == len(steps) and desk.queue.length == 0
        assert all(task.done() for task in desk.tasks.values())
        await desk.end()

    play(scene)


def test_failures_never_multiply_load() -> None:
    budget, again = Budget(), 0
    for _ in range(10_000):
        budget.earn()
        for _ in range(3):
            again += budget.spend()
    assert again <= 10_000 * Budget.SHARE + Budget.FIRST
    assert not budget.spend()
    for _ in range(2):
        budget.earn()
    assert budget.spend()


def test_what_is_saved_up_in_quiet_times_is_bounded() -> None:
    budget = Budget()
    for _ in range(100_000):
        budget.earn()
    spent = 0
    while budget.spend():
        spent += 1
    assert spent <= Budget.MOST + 1


@pytest.mark.parametrize("limit_s", [0.01])
def test_waiting_too_long_is_told_with_the_reason(limit_s: float) -> None:
    async def scene() -> None:
        queue = Queue(0, limit_s)
        with pytest.raises(Refused) as caught:
            await queue.wait("a", lambda: None, lambda worker: None, "every generation worker is busy")
        assert caught.value.status == 503 and caught.value.retry_after_s and b"every generation worker is busy" in caught.value.body

    play(scene)
