"""Slurm's spelling of many host names, both ways: `gpu[08-10,12],login` is gpu08, gpu09, gpu10, gpu12, login. Standard library only.

list  = entry {"," entry}
entry = prefix {"[" range {"," range} "]" [infix]}      nothing may follow the last bracket
range = number | number "-" number                      written with leading zeros, the names have them too
"""

from __future__ import annotations

import re
from typing import Iterable, List, Tuple

from disagg_launch.errors import BadInput

# Slurm refuses longer ranges as well; without a limit `n[1-999999999]` would eat all memory
LONGEST_RANGE = 65536
_ENTRY = re.compile(r"[^\[\],]*(?:\[[^\[\]]*\][^\[\],]*)*")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


def expand(text: str) -> Tuple[str, ...]:
    """The host names, in the order written; a name written twice is there twice. BadInput if the text is not a host list."""
    names: List[str] = []
    position = 0
    while position < len(text):
        entry = _ENTRY.match(text, position)
        end = entry.end() if entry else position
        if end < len(text) and text[end] != ",":
            raise BadInput(f"host list {text!r}: {text[end]!r} at character {end + 1} does not fit; a list looks like gpu[01-04,7],login")
        names += _names(text[position:end].strip(), text)
        position = end + 1
    return tuple(names)


def compress(names: Iterable[str]) -> str:
    """The shortest list of the names in their order: neighbours that differ only in a last number of equal width share a bracket."""
    entries: List[Tuple[str, List[str]]] = []
    for name in names:
        prefix = name.rstrip("0123456789")
        number = name[len(prefix) :]
        if entries and number and entries[-1][0] == prefix and entries[-1][1]:
            entries[-1][1].append(number)
        else:
            entries.append((prefix, [number] if number else []))
    return ",".join(prefix + _ranges(numbers) for prefix, numbers in entries)


def _names(entry: str, text: str) -> List[str]:
    """The names of one entry; its brackets multiply, the last one fastest."""
    pieces = re.split(r"\[([^\]]*)\]", entry)
    if len(pieces) > 1 and pieces[-1]:
        raise BadInput(
            f"host list {text!r}: {pieces[-1]!r} follows the last bracket of an entry; Slurm has no such names, write them one by one"
        )
    names = [pieces[0]] if entry else []
    for ranges, infix in zip(pieces[1::2], pieces[2::2]):
        numbers = [number for one in ranges.split(",") for number in _numbers(one, text)]
        names = [name + number + infix for name in names for number in numbers]
    return names


def _numbers(one: str, text: str) -> List[str]:
    match = _RANGE.fullmatch(one)
    if not match:
        raise BadInput(f"host list {text!r}: {one!r} found in brackets; a number or a range such as 01-16 is needed")
    first, last = match.group(1), match.group(2) or match.group(1)
    if not 0 <= int(last) - int(first) < LONGEST_RANGE:
        raise BadInput(f"host list {text!r}: {one!r} found; the second number may not be smaller, nor {LONGEST_RANGE} or more larger")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _ranges(numbers: List[str]) -> str:
    """Nothing for none, 7 for one, [1-3,7] for several."""
    runs: List[Tuple[str, str]] = []
    for number in numbers:
        if runs and int(number) == int(runs[-1][1]) + 1 and len(number) == _width(runs[-1][1]):
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    if len(numbers) < 2:
        return "".join(numbers)
    return "[" + ",".join(first if first == last else f"{first}-{last}" for first, last in runs) + "]"


def _width(last: str) -> int:
    """How wide the number after `last` is written within one range."""
    return len(str(int(last) + 1).zfill(len(last)))
