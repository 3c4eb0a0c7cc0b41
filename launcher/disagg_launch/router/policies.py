"""Which worker gets a request: pure functions over rows of a table.

| policy | use it when |
|---|---|
| `round_robin` | requests are alike, or nothing is known about them; the least surprising one, and upstream's default |
| `load_balancing` | requests differ: least requests in flight, or with `use_tokens: true` least prompt tokens in flight |
| `power_of_two` | as load_balancing, with so many workers, or so many router processes, that looking at all of them is wasted |
| `kv_cache_aware` | prompts share long beginnings (system prompts, documents): where most of it is cached, less for a busy worker |
| `conversation` | chats of many turns: a session stays where it was, a new one goes where its beginning is, or to the least busy |

A policy is `choose(rows, ask, memory) -> row`. `rows` is never empty and holds only workers that may be used; what a policy must
remember between requests is in `Memory`, one per role, and is changed only by `Memory`'s own methods.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Callable, Hashable, Mapping, NamedTuple, Protocol, Sequence, TypeVar


class Row(Protocol):
    """What a policy sees of a worker."""

    @property
    def url(self) -> str: ...
    @property
    def active(self) -> int: ...
    @property
    def active_tokens(self) -> int: ...


R = TypeVar("R", bound=Row)


class Ask(NamedTuple):
    """What a policy sees of a request: its number, its size in tokens (estimated for text), its session and its prompt's blocks.

    `blocks` are chained hashes: block i stands for everything up to and including block i.
    """

    number: int
    tokens: int = 0
    session: str = ""
    blocks: tuple[int, ...] = ()


@dataclass
class Memory:
    """Which worker saw which session and which beginnings of prompts last: least recently used go first."""

    options: Mapping[str, Any] = field(default_factory=dict)
    max_sessions: int = 50_000
    max_blocks: int = 200_000
    sessions: OrderedDict[str, str] = field(default_factory=OrderedDict)
    blocks: OrderedDict[tuple[str, int], None] = field(default_factory=OrderedDict)

    def saw(self, url: str, ask: Ask) -> None:
        """The worker at `url` was given this request."""
        if ask.session:
            _touch(self.sessions, ask.session, url, self.max_sessions)
        for block in ask.blocks:
            _touch(self.blocks, (url, block), None, self.max_blocks)

    def matched(self, url: str, ask: Ask) -> int:
        """How many leading blocks of the prompt the worker has seen."""
        count = 0
        for block in ask.blocks:
            if (url, block) not in self.blocks:
                break
            count += 1
        return count

    def forget(self, url: str) -> None:
        """The worker was restarted: nothing is cached there any more."""
        for key in [k for k in self.blocks if k[0] == url]:
            del self.blocks[key]


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _touch(store: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    store[key] = value
    store.move_to_end(key)
    if len(store) > limit:
        store.popitem(last=False)


def round_robin(rows: Sequence[R], ask: Ask, memory: Memory) -> R:
    """The next one in turn."""
    return rows[ask.number % len(rows)]


def load_balancing(rows: Sequence[R], ask: Ask, memory: Memory) -> R:
    """The least busy one, in requests or (`use_tokens`) in prompt tokens; in turn among equals."""
    start = ask.number % len(rows)
    in_turn = [*rows[start:], *rows[:start]] if start else rows
    if memory.options.get("use_tokens"):
        return min(in_turn, key=lambda row: (row.active_tokens, row.active))
    return min(in_turn, key=_active)


def _active(row: Row) -> int:
    return row.active


def power_of_two(rows: Sequence[R], ask: Ask, memory: Memory) -> R:
    """The less busy one of two picked by the request's number."""
    first = _scatter(ask.number) % len(rows)
    if len(rows) == 1:
        return rows[0]
    second = (first + 1 + _scatter(ask.number + 0x9E3779B9) % (len(rows) - 1)) % len(rows)
    return rows[first] if rows[first].active <= rows[second].active else rows[second]


def _scatter(number: int) -> int:
    mixed = (number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 32 & 0xFFFFFFFF


def kv_cache_aware(rows: Sequence[R], ask: Ask, memory: Memory) -> R:
    """The highest of matched share of the prompt minus share of `max_batch_size` in use; in turn among equals."""
    batch = memory.options.get("max_batch_size", 64)
    size = max(1, len(ask.blocks))
    start = ask.number % len(rows)
    return max([*rows[start:], *rows[:start]], key=lambda row: memory.matched(row.url, ask) / size - row.active / batch)


def conversation(rows: Sequence[R], ask: Ask, memory: Memory) -> R:
    """Where the session was; else where at least `match_threshold` of the prompt was seen; else the least busy one."""
    home = memory.sessions.get(ask.session) if ask.session else None
    for row in rows:
        if row.url == home:
            return row
    if ask.blocks:
        best = max(rows, key=lambda row: (memory.matched(row.url, ask), -row.active))
        if memory.matched(best.url, ask) >= memory.options.get("match_threshold", 0.75) * len(ask.blocks):
            return best
    return load_balancing(rows, ask, memory)


Policy = Callable[[Sequence[R], Ask, Memory], R]
POLICIES: Mapping[str, Policy[Any]] = {
    "round_robin": round_robin,
    "load_balancing": load_balancing,
    "power_of_two": power_of_two,
    "kv_cache_aware": kv_cache_aware,
    "conversation": conversation,
}
# the policies that read `Ask.blocks`; for the others nothing is hashed
READ_BLOCKS = frozenset({"kv_cache_aware", "conversation"})


def blocks_of(prompt: bytes, block_bytes: int) -> tuple[int, ...]:
    """Chained hashes of a prompt's whole blocks; a rest shorter than a block is left out, because no cache holds it."""
    out, chained = [], 0
    for start in range(0, len(prompt) - block_bytes + 1, block_bytes):
        chained = hash((chained, prompt[start : start + block_bytes]))
        out.append(chained)
    return tuple(out)
