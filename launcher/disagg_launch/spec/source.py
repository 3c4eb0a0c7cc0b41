"""YAML text -> plain values, and for every key and value the place where it stands in the file.

The tree is walked by hand and not with yaml.safe_load because that forgets the places, lets a key be written twice, and reads
`1:30:00` as a number. Only plain YAML is taken: strings, numbers, booleans, null, lists, maps, anchors and merge keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import yaml

from disagg_launch.plan import SECTION
from disagg_launch.spec import overrides
from disagg_launch.spec.complaint import ERROR, Complaint, Path, dotted
from disagg_launch.spec.nodes import DEEPEST, MERGE, PREFIX, NotYaml, Place, compose, place

MOST_CHARACTERS, MOST_VALUES, MOST_DIGITS = 1 << 18, 100_000, 100
SCALARS = ("str", "int", "float", "bool", "null")
# by escapes in quotes a text can hold a NUL, or half of a pair that stands for one character
UNUSABLE = re.compile("[\0\ud800-\udfff]")
SECTIONS: tuple[Path, ...] = tuple((key,) for key in SECTION.values())
_Pair = tuple[yaml.Node, yaml.Node]


@dataclass
class Source:
    """A parsed file. `values` is its top-level map; `keys` and `places` map a key path to where it is written.

    `texts` holds each scalar as it was written, for values that must be carried exactly; `text` is the whole file, with the values that
    were given on the command line in their places.
    """

    file: str
    text: str = ""
    values: dict[Any, Any] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    places: dict[Path, Place] = field(default_factory=lambda: {(): Place(1, 1)})
    texts: dict[Path, str] = field(default_factory=dict)

    def written(self, path: Path) -> Path:
        """The path under which the file holds what was inherited into a server section: the top level's."""
        inherited = path[0:1] in SECTIONS and path[:2] not in self.places and path[1:2] in self.places
        return path[1:] if inherited else path

    def at(self, path: Path, key: bool = False) -> Place:
        """Where the value (or with `key` its key) stands; what the file lacks is where its map is. A given value has its key with it."""
        here = self.written(path)
        while here not in self.places:
            here = here[:-1]
        return self.keys.get(here, self.places[here]) if key and not self.places[here].given else self.places[here]

    def complaint(self, path: Path, text: str, key: bool = False, severity: str = ERROR, number: str = "") -> Complaint:
        """A complaint about the value (or with `key` the key) at `path`; `number` is the lint rule, if it is one."""
        line, column, given = self.at(path, key)
        return Complaint(self.file, line, column, dotted(path), text, severity, number, given)

    def value(self, *path: Union[str, int], default: Any = None) -> Any:
        """The value as written at `path`; `default` if the file has none."""
        here: Any = self.values
        for part in path:
            if isinstance(here, list):
                here = dict(enumerate(here))
            if not isinstance(here, dict) or part not in here:
                return default
            here = here[part]
        return here


def parse(text: str, file: str, options: Sequence[str] = ()) -> tuple[Source, list[Complaint]]:
    """The file's values and places, and what is wrong with it as YAML. Time and memory are bounded whatever the text is.

    `options`: KEY=VALUE, values that stand in for the file's.
    """
    source = Source(file, text)
    if too_long := _too_long(source):
        return source, too_long
    try:
        root = compose(text)
    except NotYaml as no:
        return source, [Complaint(file, *no.place[:2], "", no.text)]
    if root is None:
        return source, [Complaint(file, 1, 1, "", "the file is empty; a map is needed: see `disagg-launch schema`")]
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        return source, [Complaint(file, *place(root)[:2], "", f"found a {kind} at the top level; a map is needed")]
    walk = _Walk(source)
    if options:
        root, walk.wrong = overrides.applied(root, options, file)
        source.text = overrides.text_of(root, options, file, text)
    try:
        source.values = walk.value(root, ())
    except _TooMuch as enough:
        walk.wrong.append(enough.args[0])
    return source, walk.wrong + (_too_long(source) if options else [])


def _too_long(source: Source) -> list[Complaint]:
    length = len(source.text)
    return [Complaint(source.file, 1, 1, "", f"found a file of {length} characters; allowed: {MOST_CHARACTERS}")] * (
        length > MOST_CHARACTERS
    )


class _TooMuch(Exception):
    """The document unfolds to more than is allowed."""


class _Walk:
    """One walk over the composed tree. Aliases are unfolded, so what they unfold to is counted."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.wrong: list[Complaint] = []
        self.count = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MOST_VALUES or len(path) > DEEPEST:
            what = f"more than {MOST_VALUES} values" if self.count > MOST_VALUES else f"more than {DEEPEST} levels"
            raise _TooMuch(self._complain(node, path, f"found {what}, aliases unfolded; that is not a topology"))
        self.source.places[path] = place(node)
        if isinstance(node, yaml.ScalarNode):
            self.source.texts[path] = node.value
            return self._scalar(node, path)
        plain = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != PREFIX + plain:
            self.wrong.append(self._complain(node, path, f"found the tag {node.tag!r}; allowed: plain YAML without tags"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return [self.value(item, path + (i,)) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        """The map's own keys, then those that `<<` brings: its own win, as YAML says."""
        out: dict[Any, Any] = {}
        own, brought = self._pairs(node, path)
        for key_node, value_node in own + brought:
            key = self._key(key_node, path)
            if key is None:
                continue
            here = path + (key,)
            if key not in out:
                self.source.keys[here] = place(key_node)
                out[key] = self.value(value_node, here)
            elif (key_node, value_node) in own:
                first = self.source.keys[here]
                self.wrong.append(self._complain(key_node, here, f"found this key twice; it is already at {first}"))
        return out

    def _pairs(self, node: yaml.MappingNode, path: Path, depth: int = 0) -> tuple[list[_Pair], list[_Pair]]:
        own: list[_Pair] = []
        brought: list[_Pair] = []
        self.count += len(node.value)
        for key, value in node.value:
            if key.tag != MERGE:
                own.append((key, value))
                continue
            for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(other, yaml.MappingNode) or depth > DEEPEST or self.count > MOST_VALUES:
                    self.wrong.append(self._complain(key, path, "found `<<` without a map; allowed: an alias of a map"))
                    continue
                first, second = self._pairs(other, path, depth + 1)
                brought += first + second
        return own, brought

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        """The value; a base-60 number is a text. None after a complaint, if it is no plain value."""
        kind = node.tag[len(PREFIX) :] if node.tag.startswith(PREFIX) else ""
        if kind not in SCALARS:
            self.wrong.append(self._complain(node, path, f"found the tag {node.tag!r}; allowed: plain YAML without tags"))
            return None
        if unusable := UNUSABLE.search(node.value):
            text = f"found the character U+{ord(unusable[0]):04X}, which no file and no command line can hold"
            self.wrong.append(self._complain(node, path, text))
            return None
        if kind in ("int", "float") and ":" in node.value:
            return node.value
        try:
            if kind == "int" and len(node.value) > MOST_DIGITS:
                raise ValueError(node.value)
            return self.constructor.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError):
            self.wrong.append(self._complain(node, path, f"found {node.value[:40]!r}; it cannot be read as {kind}"))
            return None

    def _key(self, node: yaml.Node, path: Path) -> Optional[Union[str, int]]:
        value = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
        shown = repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "a map or list"
        self.wrong.append(self._complain(node, path, f"found {shown} as a key; allowed: text (put it in quotes) or an integer"))
        return None

    def _complain(self, node: yaml.Node, path: Path, text: str) -> Complaint:
        line, column, given = place(node)
        return Complaint(self.source.file, line, column, dotted(path), text, given=given)
