"""A whole instance of the reference engine in this process: ranks are threads, the KV hand-over is real TCP."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from disagg_launch.reference import grid, kv
from disagg_launch.reference.batch import Scheduler
from disagg_launch.reference.comm import Threads
from disagg_launch.reference.models import Model
from disagg_launch.reference.rank import Rank
from disagg_launch.reference.request import Delta, Limits, Request
from disagg_launch.reference.sampling import Sampling
from disagg_launch.reference.ticket import Ticket

LIMITS = Limits(batch=8, sequence=128, iteration=64, pool=4096, buffer=4096, transfer_timeout_s=20.0)
PATIENCE_S = 60.0


@dataclass
class Answer:
    """What came back: the tokens and text, and the last delta."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    last: Delta = field(default_factory=Delta)


class Asked:
    """A request under way in an instance."""

    def __init__(self) -> None:
        self.deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self.number = 0

    def next(self) -> Delta:
        """The next delta."""
        return self.deltas.get(timeout=PATIENCE_S)

    def answer(self) -> Answer:
        """Everything up to the end."""
        answer = Answer()
        while not (answer.last.finish or answer.last.error):
            answer.last = self.next()
            answer.text += answer.last.text
            answer.tokens += [] if answer.last.token is None else [answer.last.token]
        return answer


class Instance:
    """tp x pp ranks and their scheduler. `exports` makes a rank's KV port from its rectangle; None: no KV port."""

    def __init__(
        self,
        model: Model,
        tp: int = 1,
        pp: int = 1,
        limits: Limits = LIMITS,
        exports: Callable[[grid.Rect], kv.Exports] | None = lambda rect: kv.Exports("127.0.0.1", "127.0.0.1", rect),
    ) -> None:
        self.model, self.limits = model, limits
        self.ranks: dict[int, Rank] = {}
        self._make = exports
        self._ready: queue.SimpleQueue[Scheduler | Exception] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._life, args=(comm, tp, pp), daemon=True) for comm in Threads.world(tp * pp)]
        for thread in self._threads:
            thread.start()
        scheduler = self._ready.get(timeout=PATIENCE_S)
        if isinstance(scheduler, Exception):
            raise scheduler
        self.scheduler = scheduler

    def ask(self, prompt: Sequence[int], limit: int = 24, **more: object) -> Asked:
        """Send a request."""
        asked = Asked()
        sampling = more.pop("sampling", Sampling())
        asked.number = self.scheduler.submit(Request(tuple(prompt), limit, sampling, asked.deltas.put, **more))  # type: ignore[arg-type]
        return asked

    def answer(self, prompt: Sequence[int], limit: int = 24, **more: object) -> Answer:
        """Send a request and wait for its end."""
        return self.ask(prompt, limit, **more).answer()

    def hand_over(self, prompts: Sequence[Sequence[int]], to: Instance, limit: int = 24, **more: object) -> list[Answer]:
        """The answers to context-only requests here and their generation-only halves there, each half of them as one batch."""
        asked = [self.ask(prompt, limit, context_only=True, **more) for prompt in prompts]
        seconds = []
        for prompt, first in zip(prompts, [one.answer() for one in asked], strict=True):
            assert first.last.ticket is not None, first
            ticket = Ticket.decode(first.last.ticket.encode())
            seconds.append(to.ask(prompt, limit, ticket=ticket, first=tuple(first.tokens), **more))
        return [one.answer() for one in seconds]

    def kept(self) -> int:
        """How many caches the ranks keep for others."""
        return sum(rank.exports.count for rank in self.ranks.values() if rank.exports)

    def close(self) -> None:
        """End all ranks."""
        self.scheduler.stop()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _life(self, comm: Threads, tp: int, pp: int) -> None:
        try:
            rect = grid.place(self.model.shape, tp, pp, comm.rank).rect
            rank = self.ranks[comm.rank] = Rank(self.model, tp, pp, comm, self._make(rect) if self._make else None)
            if comm.rank == 0:
                scheduler = Scheduler(rank, self.limits, self.model.tokenizer, self.model.fingerprint)
                self._ready.put(scheduler)
                with contextlib.suppress(Exception):
                    scheduler.run()
            else:
                rank.holders()
                rank.follow()
        except Exception as wrong:
            comm.fail(f"rank {comm.rank} failed: {wrong}")
            self._ready.put(wrong)
