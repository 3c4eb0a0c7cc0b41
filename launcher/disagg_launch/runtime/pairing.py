"""Which pairs of a context and a generation instance are to be proved, and which next, as instances come up one after the other. Pure."""

from __future__ import annotations

import collections
from typing import Counter, Deque, Dict, Iterable, List, Optional, Sequence, Tuple

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.record import Record

MANY = 16
Pair = Tuple[Record, Record]


def pairs(contexts: Sequence[Record], generations: Sequence[Record], how: str) -> List[Pair]:
    """The pairs to be proved of instances that are all up: as many as `Pairing` hands out, everybody in one at least."""
    ours = Pairing(len(contexts), len(generations), how)
    for one in (*contexts, *generations):
        ours.came(one)
    return list(iter(ours.take, None))


def blamed(tried: Iterable[Pair], failed: Sequence[Pair]) -> Record:
    """The instance most of whose pairs failed; between equals a generation instance, which is the one that notices."""
    tried = list(tried)

    def share(one: Record) -> float:
        return sum(one in pair for pair in failed) / sum(one in pair for pair in tried)

    return max([*(g for _, g in failed), *(c for c, _ in failed)], key=share)


class Pairing:
    """Pairs for so many context and generation instances: "pairs" all, "cover" everybody at least once, "auto" all if they are not many,
    "none" none.

    A cover is chosen on the way: two newcomers together, a lone newcomer with whoever is proved already. So when the last one comes, one
    token is left to be sent, not one for each of those that waited for it.
    """

    def __init__(self, contexts: int, generations: int, how: str) -> None:
        self._wanted = contexts + generations if contexts and generations and how != "none" else 0
        self._all = how == "pairs" or (how == "auto" and contexts * generations <= MANY)
        self._here: Dict[str, List[Record]] = {CONTEXT: [], GENERATION: []}
        self._alone: Dict[str, Deque[Record]] = {CONTEXT: collections.deque(), GENERATION: collections.deque()}
        self._next: Deque[Pair] = collections.deque()
        self._uses: Counter[str] = collections.Counter()

    def came(self, one: Record) -> None:
        """An instance is up. Whoever is of neither role has no part in this."""
        if not self._wanted or one.role not in self._here:
            return
        others = self._here[GENERATION if one.role == CONTEXT else CONTEXT]
        if self._all:
            self._next.extend(_pair(one, other) for other in others)
        else:
            self._alone[one.role].append(one)
        self._here[one.role].append(one)

    @property
    def complete(self) -> bool:
        """Whether everybody has come and every pair been taken."""
        return sum(map(len, self._here.values())) >= self._wanted and not self._next and not any(self._alone.values())

    def take(self) -> Optional[Pair]:
        """A pair to be proved now; None if all that can be have been taken."""
        pair = self._next.popleft() if self._next else self._newcomers()
        for one in pair or ():
            self._uses[one.name] += 1
        return pair

    def _newcomers(self) -> Optional[Pair]:
        contexts, generations = self._alone[CONTEXT], self._alone[GENERATION]
        if contexts and generations:
            return contexts.popleft(), generations.popleft()
        for alone, others in ((contexts, self._here[GENERATION]), (generations, self._here[CONTEXT])):
            if alone and others:
                return _pair(alone.popleft(), min(others, key=lambda one: (not one.proved, self._uses[one.name])))
        return None


def _pair(one: Record, other: Record) -> Pair:
    return (one, other) if one.role == CONTEXT else (other, one)
