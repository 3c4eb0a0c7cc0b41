"""Numbers as people write them: 0-3,7."""

from __future__ import annotations

from typing import Iterable


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The runs of consecutive numbers, as (first, last), rising."""
    out: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if out and out[-1][1] == number - 1:
            out[-1] = (out[-1][0], number)
        else:
            out.append((number, number))
    return out


def counted(count: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7; "" for none."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans(numbers))
