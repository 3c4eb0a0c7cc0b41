"""Which layers, heads and vocabulary rows each rank of an instance owns. Pure arithmetic, no arrays.

Ranks are numbered tensor-parallel first: rank = pp_rank * tp + tp_rank. Nothing has to divide: shares differ by one at most.
Query heads follow their KV head. With more tensor-parallel ranks than KV heads, neighbours hold the same one and divide its query heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from disagg_launch.errors import BadInput


@dataclass(frozen=True)
class Shape:
    """The model's sizes. `groups` is the number of KV heads, `repeat` the query heads of each; all counts."""

    layers: int
    groups: int
    repeat: int
    head_size: int
    width: int
    hidden: int
    vocab: int
    context: int
    rope_base: float
    epsilon: float
    tied: bool


@dataclass(frozen=True)
class Rect:
    """Layers layer0 .. layer1-1 and KV heads head0 .. head1-1."""

    layer0: int
    layer1: int
    head0: int
    head1: int

    def overlap(self, other: Rect) -> Rect:
        """What both cover; `empty` if nothing."""
        return Rect(
            max(self.layer0, other.layer0), min(self.layer1, other.layer1), max(self.head0, other.head0), min(self.head1, other.head1)
        )

    @property
    def empty(self) -> bool:
        """True if there is no cell in it."""
        return self.layer0 >= self.layer1 or self.head0 >= self.head1

    @property
    def cells(self) -> int:
        """The number of (layer, KV head) pairs."""
        return 0 if self.empty else (self.layer1 - self.layer0) * (self.head1 - self.head0)


@dataclass(frozen=True)
class Place:
    """What one rank owns: `rect` of the KV cache, query heads `query` of each of its KV heads, `hidden` units, `vocab` rows."""

    tp: int
    pp: int
    tp_rank: int
    pp_rank: int
    rect: Rect
    query: range
    hidden: range
    vocab: range

    @property
    def first(self) -> bool:
        """True on the stage that embeds tokens."""
        return self.pp_rank == 0

    @property
    def last(self) -> bool:
        """True on the stage that makes logits."""
        return self.pp_rank == self.pp - 1


def share(total: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` contiguous, nearly equal shares of range(total); the first ones are the larger."""
    small, extra = divmod(total, parts)
    start = index * small + min(index, extra)
    return range(start, start + small + (index < extra))


def place(shape: Shape, tp: int, pp: int, rank: int) -> Place:
    """The share of instance rank `rank`. BadInput if a rank would own nothing."""
    heads = shape.groups * shape.repeat
    if not 1 <= tp <= heads:
        raise BadInput(f"tensor parallel size {tp} does not fit {heads} heads: 1 to {heads} is possible")
    if not 1 <= pp <= shape.layers:
        raise BadInput(f"pipeline parallel size {pp} does not fit {shape.layers} layers: 1 to {shape.layers} is possible")
    pp_rank, tp_rank = divmod(rank, tp)
    layers = share(shape.layers, pp, pp_rank)
    groups, query = _heads(shape, tp, tp_rank)
    return Place(
        tp=tp,
        pp=pp,
        tp_rank=tp_rank,
        pp_rank=pp_rank,
        rect=Rect(layers.start, layers.stop, groups.start, groups.stop),
        query=query,
        hidden=share(shape.hidden, tp, tp_rank),
        vocab=share(shape.vocab, tp, tp_rank),
    )


def _heads(shape: Shape, tp: int, tp_rank: int) -> tuple[range, range]:
    """(KV heads, query heads within each of them) of a tensor-parallel rank."""
    if tp <= shape.groups:
        return share(shape.groups, tp, tp_rank), range(shape.repeat)
    for group in range(shape.groups):
        holders = share(tp, shape.groups, group)
        if tp_rank in holders:
            return range(group, group + 1), share(shape.repeat, len(holders), tp_rank - holders.start)
    raise AssertionError("every tensor-parallel rank is in one share")
