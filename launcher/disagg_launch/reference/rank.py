"""What one rank does in one iteration. The leader's scheduler decides; every rank of the instance executes the same `Step`."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

from disagg_launch.reference import grid, kv
from disagg_launch.reference.comm import Comm
from disagg_launch.reference.llama import Run, Stage
from disagg_launch.reference.models import Model
from disagg_launch.reference.sampling import Sampling, choose
from disagg_launch.reference.ticket import Holder, Ticket

Array = npt.NDArray[np.float32]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """A token is wanted after this row: how to choose it, and which token of the answer it is."""

    how: Sampling
    number: int


@dataclass(frozen=True)
class Export:
    """Once this row is in the cache, keep the sequence's cache for whoever has the key."""

    request: int
    key: str
    timeout_s: float


@dataclass(frozen=True)
class Row:
    """New tokens of sequence `sequence` from position `start` on."""

    sequence: int
    start: int
    tokens: tuple[int, ...]
    draw: Optional[Draw] = None
    export: Optional[Export] = None


@dataclass(frozen=True)
class Pull:
    """Fill the cache of sequence `sequence` with what the ticket stands for, in the background."""

    sequence: int
    ticket: Ticket
    timeout_s: float


@dataclass(frozen=True)
class Step:
    """One iteration, in this order: free sequences and exports, open sequences (number -> capacity), start pulls, compute rows."""

    close: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    open: tuple[tuple[int, int], ...] = ()
    pulls: tuple[Pull, ...] = ()
    rows: tuple[Row, ...] = ()
    stop: bool = False


@dataclass(frozen=True)
class Pulled:
    """Report to the leader: a rank has its part of a sequence's cache, or `error` says why not."""

    sequence: int
    rank: int
    error: str = ""


class Rank:
    """One rank of an instance: its share of the model, the caches of the running sequences, its exports."""

    def __init__(self, model: Model, tp: int, pp: int, comm: Comm, exports: Optional[kv.Exports] = None) -> None:
        self.comm, self.exports = comm, exports
        self.place = grid.place(model.shape, tp, pp, comm.rank)
        self._stage = Stage(model, self.place, comm.split(self.place.pp_rank))
        self._caches: dict[int, Array] = {}
        self._cancels: dict[int, threading.Event] = {}

    def holders(self) -> tuple[Holder, ...]:
        """The KV ports of all ranks, on the leader; empty elsewhere. Called once by every rank."""
        if not self.exports:
            return ()
        if self.comm.rank:
            self.comm.send(self.exports.holder, 0)
            return ()
        return (self.exports.holder, *(self.comm.receive(rank) for rank in range(1, self.comm.size)))

    def lead(self, step: Step) -> list[int]:
        """Leader: hand the step to everybody and execute it. The tokens of the rows with a draw, in order."""
        for rank in range(1, self.comm.size):
            self.comm.send(step, rank)
        return self.execute(step)

    def follow(self) -> None:
        """Every other rank: execute steps until told to stop."""
        while not (step := self.comm.receive(0)).stop:
            self.execute(step)
        self.close()

    def execute(self, step: Step) -> list[int]:
        """This rank's part of a step. Tokens on the leader, an empty list elsewhere."""
        for sequence in step.close:
            self._caches.pop(sequence, None)
            if cancel := self._cancels.pop(sequence, None):
                cancel.set()
        for request in step.drop:
            if self.exports:
                self.exports.drop(request)
        for sequence, capacity in step.open:
            self._caches[sequence] = self._stage.empty_cache(capacity)
        for pull in step.pulls:
            cancel = self._cancels[pull.sequence] = threading.Event()
            # one thread each, at most a batch of them; daemons, so that a silent peer does not delay the end of the process
            arguments = (pull, self._caches[pull.sequence], cancel)
            threading.Thread(target=self._pull, args=arguments, name="kv-pull", daemon=True).start()
        return self._compute(step.rows) if step.rows else []

    def close(self) -> None:
        """Free everything; running pulls are abandoned."""
        for cancel in self._cancels.values():
            cancel.set()
        if self.exports:
            self.exports.close()
        self.comm.leave()

    def _compute(self, rows: tuple[Row, ...]) -> list[int]:
        place, comm = self.place, self.comm
        runs, ends = [], []
        column = 0
        for row in rows:
            runs.append(Run(column, row.start, len(row.tokens), self._caches[row.sequence]))
            column += len(row.tokens)
            if row.draw:
                ends.append(column - 1)
        x = self._stage.embed([token for row in rows for token in row.tokens]) if place.first else comm.receive(comm.rank - place.tp)
        x = self._stage.layers(x, runs)
        # kept before anything is passed on: when the leader has the token, every rank serves the cache
        self._export(rows)
        if not place.last:
            comm.send(x, comm.rank + place.tp)
            return comm.receive(comm.size - place.tp) if comm.rank == 0 and ends else []
        return self._draw(rows, self._stage.logits(x, ends)) if ends else []

    def _export(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            if row.export and self.exports:
                cache = self._caches.pop(row.sequence)
                self.exports.keep(row.export.request, row.export.key, cache, row.start + len(row.tokens), row.export.timeout_s)

    def _draw(self, rows: tuple[Row, ...], logits: Optional[Array]) -> list[int]:
        """The chosen tokens; the last stage's first rank chooses and tells the leader."""
        if logits is None:
            return []
        wanted = [row.draw for row in rows if row.draw]
        tokens = [choose(line, draw.how, draw.number) for line, draw in zip(logits, wanted, strict=True)]
        if self.comm.rank == 0:
            return tokens
        self.comm.send(tokens, 0)
        return []

    def _pull(self, pull: Pull, cache: Array, cancel: threading.Event) -> None:
        error = ""
        try:
            kv.pull(pull.ticket, self.place.rect, cache, pull.timeout_s, cancel.is_set)
        except Exception as wrong:  # every failure must reach the leader, or the request would wait for ever
            error = str(wrong) or type(wrong).__name__
            log.warning("%s", error)
        if not cancel.is_set():
            self.comm.report(asdict(Pulled(pull.sequence, self.comm.rank, error)))
