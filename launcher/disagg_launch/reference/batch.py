"""The leader's scheduler: continuous batching of whole, context-only and generation-only requests on one model loop.

Every iteration takes one new token of each running sequence and fills up with pieces of waiting prompts. All state belongs to the loop's
thread; other threads only post to its inbox.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from disagg_launch.reference import kv
from disagg_launch.reference.bpe import Tokenizer
from disagg_launch.reference.comm import Json
from disagg_launch.reference.rank import Draw, Export, Pull, Pulled, Rank, Row, Step
from disagg_launch.reference.request import Delta, Limits, Request, Sequence, capacity, check
from disagg_launch.reference.text import Text
from disagg_launch.reference.ticket import Ticket, new_identity

log = logging.getLogger(__name__)

STATS_KEPT = 1000


@dataclass
class _Orders:
    """What the next step tells the ranks besides rows."""

    close: list[int] = field(default_factory=list)
    drop: list[int] = field(default_factory=list)
    open: list[tuple[int, int]] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.close or self.drop or self.open or self.pulls)


class Scheduler:
    """The model loop of an instance. `submit`, `cancel`, `stop`, `lose` may be called from any thread; `run` is the loop."""

    def __init__(self, rank: Rank, limits: Limits, tokenizer: Tokenizer, model: str) -> None:
        self.limits = limits
        self.failed = ""
        self.on_failure: Callable[[str], None] = lambda _: None
        self.stats: deque[Json] = deque(maxlen=STATS_KEPT)
        self._rank, self._tokenizer, self._model, self._holders = rank, tokenizer, model, rank.holders()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._live: dict[int, Sequence] = {}  # everything not finished, waiting or running
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._exported: dict[int, tuple[int, int]] = {}  # sequence -> (request id, tokens)
        self._orders = _Orders()
        self._stopping = False
        self._iterations = 0
        self._numbers = iter(range(1, 2**62))
        self._number_lock = threading.Lock()
        rank.comm.listen(self._hear, self.lose)
        if rank.exports:
            rank.exports.freed = self.freed

    @property
    def load(self) -> int:
        """Requests that are not finished."""
        return len(self._live)

    @property
    def kv_tokens(self) -> dict[str, int]:
        """Tokens whose KV has a place now: of `running` requests, and of finished prompts that are `kept` until they are fetched."""
        running = sum(sequence.capacity for sequence in list(self._running.values()))
        return {"running": running, "kept": sum(tokens for _, tokens in list(self._exported.values()))}

    def submit(self, request: Request) -> int:
        """The request's number; its deltas follow, also if all have failed. Refused if it can never be served."""
        check(request, self.limits, self._model)
        with self._number_lock:
            number = next(self._numbers)
        text = Text(self._tokenizer, request.stops)
        sequence = Sequence(number, request, text, list(request.prompt), capacity(request, self.limits))
        self._live[number] = sequence  # by now, and not when the loop comes to it: it may be stuck, and `lose` has to reach everybody
        self._inbox.put(lambda: self._add(sequence))
        if self.failed:
            request.emit(Delta(error=self.failed, status=500))
        return number

    def cancel(self, number: int) -> None:
        """Forget a request, whatever its state, and free what it holds, also on the other side of a hand-over."""
        self._inbox.put(lambda: self._cancel(number))

    def freed(self, request: int) -> None:
        """The leader's exports no longer keep this request id."""
        self._inbox.put(lambda: self._forget(request))

    def stop(self) -> None:
        """Let `run` end; what is not finished fails."""
        self._inbox.put(lambda: setattr(self, "_stopping", True))

    def lose(self, reason: str) -> None:
        """A rank is gone: fail everything at once, also when the loop is stuck waiting for that rank."""
        if not self.failed:
            self.failed = reason
            self.on_failure(reason)
            for sequence in list(self._live.values()):
                sequence.request.emit(Delta(error=reason, status=500))

    def run(self) -> None:
        """The loop, until `stop`. If an iteration fails, all requests fail, `failed` says why, and the exception goes on."""
        try:
            while not self._stopping:
                self._take(wait=not self._orders and not any(self._ready()))
                step, began = self._plan(), time.time()
                if step != Step():
                    tokens = self._rank.lead(step)
                    if step.rows:
                        self._record(step, began)  # before anybody hears of it
                    self._settle(step.rows, tokens)
            self._rank.lead(Step(stop=True))
        except Exception as wrong:
            self.lose(f"the model loop failed: {type(wrong).__name__}: {wrong}")
            raise
        finally:
            self.lose("the worker is stopping")
            self._take(wait=False)
            self._rank.close()

    # ---- messages, handled between iterations

    def _take(self, wait: bool) -> None:
        if wait:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _hear(self, event: Json) -> None:
        self._inbox.put(lambda: self._pulled(Pulled(**event)))

    def _add(self, sequence: Sequence) -> None:
        request = sequence.request
        if self.failed:
            del self._live[sequence.number]  # it has been told
        elif request.ticket and (len(request.first) >= request.limit or request.first[-1] in request.stop_tokens):
            # nothing is left to compute: the cache is not needed
            self._append_first(sequence)
        else:
            self._waiting.append(sequence)

    def _cancel(self, number: int) -> None:
        if sequence := self._live.get(number):
            self._end(sequence)
        elif number in self._exported:
            self._orders.drop.append(self._exported[number][0])

    def _forget(self, request: int) -> None:
        self._exported = {number: kept for number, kept in self._exported.items() if kept[0] != request}

    def _pulled(self, event: Pulled) -> None:
        sequence = self._running.get(event.sequence)
        if sequence is None:
            return
        if event.error:
            sequence.request.emit(Delta(error=event.error, status=500))
            self._end(sequence)
            return
        sequence.missing -= 1
        if not sequence.missing:
            self._release(sequence.request)
            self._append_first(sequence)

    # ---- one iteration

    def _ready(self) -> list[Sequence]:
        return [sequence for sequence in self._running.values() if not sequence.missing]

    def _plan(self) -> Step:
        """The next step; it is empty if there is nothing to do."""
        self._admit()
        rows, budget = [], self.limits.iteration
        for sequence in sorted(self._ready(), key=lambda s: len(s.tokens) - s.filled):
            pending = sequence.tokens[sequence.filled : sequence.filled + budget]
            if pending:
                rows.append(self._row(sequence, pending))
                budget -= len(pending)
        orders, self._orders = self._orders, _Orders()
        return Step(tuple(orders.close), tuple(orders.drop), tuple(orders.open), tuple(orders.pulls), tuple(rows))

    def _row(self, sequence: Sequence, pending: list[int]) -> Row:
        request = sequence.request
        if sequence.filled + len(pending) < len(sequence.tokens):
            return Row(sequence.number, sequence.filled, tuple(pending))
        export = Export(*sequence.identity, self.limits.transfer_timeout_s) if request.context_only else None
        return Row(sequence.number, sequence.filled, tuple(pending), Draw(request.sampling, sequence.made), export)

    def _admit(self) -> None:
        """Move waiting sequences into the batch, oldest first, as far as batch, pool and buffer allow."""
        pool = self.limits.pool - sum(sequence.capacity for sequence in self._running.values())
        buffer = self.limits.buffer - sum(tokens for _, tokens in self._exported.values())
        buffer -= sum(sequence.capacity for sequence in self._running.values() if sequence.request.context_only)
        for sequence in list(self._waiting):
            if len(self._running) >= self.limits.batch or sequence.capacity > pool:
                return
            if sequence.request.context_only:
                if sequence.capacity > buffer:
                    continue  # waits for a fetched cache; others need not wait with it
                buffer -= sequence.capacity
                sequence.identity = new_identity()
            pool -= sequence.capacity
            self._waiting.remove(sequence)
            self._start(sequence)

    def _start(self, sequence: Sequence) -> None:
        self._running[sequence.number] = sequence
        self._orders.open.append((sequence.number, sequence.capacity))
        if ticket := sequence.request.ticket:
            sequence.missing = self._rank.comm.size
            sequence.filled = len(sequence.request.prompt)
            self._orders.pulls.append(Pull(sequence.number, ticket, self.limits.transfer_timeout_s))

    def _settle(self, rows: tuple[Row, ...], tokens: list[int]) -> None:
        """Book what the ranks computed."""
        drawn = iter(tokens)
        for row in rows:
            sequence = self._running[row.sequence]
            sequence.filled += len(row.tokens)
            if row.draw:
                self._append(sequence, next(drawn))

    def _append_first(self, sequence: Sequence) -> None:
        for token in sequence.request.first:
            if sequence.number in self._live:
                self._append(sequence, token)

    def _append(self, sequence: Sequence, token: int) -> None:
        """One more token of the answer: say so, and end the sequence if it was the last."""
        request, text = sequence.request, sequence.text
        sequence.tokens.append(token)
        ended = token in request.stop_tokens
        new = "" if ended else text.add(token)
        full = sequence.made >= request.limit or len(sequence.tokens) >= self.limits.sequence
        finish = "stop" if ended or text.stopped else "length" if full or request.context_only else ""
        if not finish:
            request.emit(Delta(new, token, held=text.held))
            return
        new += text.finish()
        ticket = self._keep(sequence) if request.context_only else None
        if ticket and finish == "stop":
            self._orders.drop.append(ticket.request)
            ticket = None
        request.emit(Delta(new, token, finish, ticket))
        self._end(sequence)

    def _keep(self, sequence: Sequence) -> Ticket:
        """The ticket for the cache that the ranks have just begun to keep."""
        request, key = sequence.identity
        prompt = len(sequence.request.prompt)
        self._exported[sequence.number] = (request, prompt)
        return Ticket(request, key, prompt, self._model, self._holders)

    def _end(self, sequence: Sequence) -> None:
        del self._live[sequence.number]
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if self._running.pop(sequence.number, None):
            self._orders.close.append(sequence.number)
        if sequence.missing or not sequence.filled:
            self._release(sequence.request)

    def _release(self, request: Request) -> None:
        """Have the other side free the cache that the request's ticket stands for, in the background."""
        if request.ticket:
            threading.Thread(target=kv.release, args=(request.ticket,), name="kv-release", daemon=True).start()

    def _record(self, step: Step, began: float) -> None:
        self._iterations += 1
        decoding = sum(len(row.tokens) == 1 for row in step.rows)
        used = self.kv_tokens
        self.stats.append(
            {
                "iter": self._iterations,
                "timestamp": began,
                "iterLatencyMS": (time.time() - began) * 1e3,
                "numActiveRequests": len(self._running),
                "numQueuedRequests": len(self._waiting),
                "inflightBatchingStats": {
                    "numScheduledRequests": len(step.rows),
                    "numContextRequests": len(step.rows) - decoding,
                    "numGenRequests": decoding,
                    "numCtxTokens": sum(len(row.tokens) for row in step.rows) - decoding,
                },
                "kvCacheStats": {
                    "tokensPerBlock": 1,
                    "maxNumBlocks": self.limits.pool,
                    "usedNumBlocks": used["running"],
                    "freeNumBlocks": self.limits.pool - used["running"],
                    "numTokensInTransferBuffer": used["kept"],
                },
            }
        )
