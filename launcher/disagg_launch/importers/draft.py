"""A topology in the making from another tool's file: what was taken and from where, and what was not. Nothing gets lost unseen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Optional

import yaml

from disagg_launch.spec.complaint import WARNING, BadTopology, Complaint, Path, dotted, found
from disagg_launch.spec.source import Source, parse


class Draft:
    """Values in our form beside the source they come from. Paths are tuples of keys: `old` in the source, `new` in our form."""

    def __init__(self, source: Source, kind: str) -> None:
        self.source = source
        self.kind = kind
        self.values: dict[Any, Any] = {}
        self.notes: dict[Any, list[str]] = {}
        self.reasons: dict[Path, str] = {}
        self.origin: dict[Path, Path] = {}
        self.taken: set[Path] = set()
        self.wrong: list[Complaint] = []

    def peek(self, old: Path, default: Any = None) -> Any:
        """The source's value, without taking it; `default` also for null."""
        value = self.source.value(*old)
        return default if value is None else value

    def take(self, old: Path, default: Any = None) -> Any:
        """The source's value, which the caller accounts for; `default` also for null."""
        self.taken.add(old)
        return self.peek(old, default)

    def keys(self, old: Path) -> list[Any]:
        """The keys of the source's map at `old`; none if there is no map."""
        value = self.source.value(*old)
        return list(value) if isinstance(value, dict) else []

    def put(self, new: Path, value: Any, why: str = "") -> None:
        """A value of ours that the source does not hold as such, and a note on where it comes from."""
        here = self.values
        for part in new[:-1]:
            here = here.setdefault(part, {})
        here[new[-1]] = value
        if why:
            self.notes.setdefault(new[0], []).append(f"{dotted(new)}: {why}")

    def move(self, old: Path, new: Path, make: Optional[Callable[[Any], Any]] = None) -> None:
        """Take a value over to our form, through `make` if it is written differently there. Nothing happens if it is absent, null or ""."""
        value = self.peek(old)
        if value is None or value == "":
            return
        try:
            self.put(new, value if make is None else make(value))
        except (AttributeError, TypeError, ValueError):
            self.wrong.append(self.source.complaint(old, f"found {found(value)}; it cannot be read as {dotted(new)}"))
        self.taken.add(old)
        self.origin[new] = old

    def environ(self, old: Path, new: Path) -> None:
        """Take a map of variables over, each value as it was written."""
        for name in self.keys(old):
            here, there = (*old, name), (*new, name)
            if here in self.source.texts:
                self.taken.add(here)
                self.put(there, self.source.texts[here])
                self.origin[there] = here

    def refuse(self, old: Path, text: str) -> NoReturn:
        """BadTopology with this one complaint about the source's key at `old`: the file cannot become a topology."""
        raise BadTopology([self.source.complaint(old, text, key=True)])

    def left(self) -> Iterator[tuple[Path, Any]]:
        """The leaves of the source that nobody took, in the order of the file; an empty text says nothing."""
        yield from self._left((), self.source.values)

    def _left(self, path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
        if path in self.taken or value == "":
            return
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if not inside:
            yield path, value
        for key, item in inside:
            yield from self._left((*path, key), item)

    def reason(self, path: Path) -> str:
        """Why a leaf is not taken, by the longest path that has a reason; "" if there is none."""
        return next((self.reasons[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.reasons), "")

    def warnings(self) -> list[Complaint]:
        """One for each top-level key, or key in a map that was taken in part, of which something was not taken."""
        grouped: dict[Path, list[Path]] = {}
        for path, _ in self.left():
            grouped.setdefault(path[: 1 + any(one[:1] == path[:1] for one in self.taken)], []).append(path)
        return [self._warning(head, paths) for head, paths in grouped.items()]

    def _warning(self, head: Path, paths: list[Path]) -> Complaint:
        inside = [dotted(path[len(head) :]) for path in paths if path != head]
        what = f" ({', '.join(inside[:4])}{', ...' if len(inside) > 4 else ''})" if inside else ""
        because = self.reason(head)
        return self.source.complaint(head, f"not taken over{what}{': ' + because if because else ''}", key=True, severity=WARNING)

    def text(self) -> str:
        """The topology file: our form, with a comment for each note and for each thing that was not taken."""
        lines = [f"# Made by `disagg-launch import`; the source is: {self.kind}."]
        left = list(self.left())
        if left:
            lines += ["#", "# Not taken over, because there is no counterpart:"]
            for path, value in left:
                because = self.reason(path)
                lines.append(_comment(f"  {dotted(path)}: {json.dumps(value, default=str)}{'  -- ' + because if because else ''}"))
        for key, value in self.values.items():
            lines.append("")
            lines += [_comment(note) for note in self.notes.get(key, ())]
            lines.append(yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120).rstrip("\n"))
        return "\n".join(lines) + "\n"

    def as_source(self, options: Sequence[str] = ()) -> tuple[Source, list[Complaint]]:
        """Our form as if it had been parsed, each value at the place it has in the original file, and what is wrong with the `options`."""
        out, wrong = parse(self.text(), self.source.file, options)
        for new in [path for path, place in out.places.items() if not place.given]:
            old = next(((*self.origin[new[:n]], *new[n:]) for n in range(len(new), 0, -1) if new[:n] in self.origin), ())
            out.places[new], out.keys[new] = self.source.at(old), self.source.at(old, key=True)
        return out, wrong


def _comment(text: str) -> str:
    """One comment line, whatever the text holds."""
    return "# " + "".join(c if c.isprintable() else " " for c in text)


class _Dumper(yaml.SafeDumper):
    """Never anchors: a value that is used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
