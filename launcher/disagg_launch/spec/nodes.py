"""YAML text -> a tree of nodes, each with the place where it stands. Only plain YAML is read: no dates, and no endless nesting."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Optional

import yaml

DEEPEST = 40
PREFIX = "tag:yaml.org,2002:"
MERGE = PREFIX + "merge"


class Place(NamedTuple):
    """Line and column, from 1; or the option by which something was `given` on the command line, and then both are 0."""

    line: int
    column: int
    given: str = ""

    def __str__(self) -> str:
        return self.given or f"line {self.line}"


class NotYaml(Exception):
    """A text that is no YAML: where, and in words why."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place, self.text = place, f"not YAML: {text}"


def compose(text: str, given: str = "") -> Optional[yaml.Node]:
    """The root of the tree, None if there is nothing in the text; `given` is the option that the text comes from. NotYaml."""
    try:
        loader = _Loader(text)
        loader.name = given  # goes into every mark
        return loader.get_single_node()
    except yaml.MarkedYAMLError as wrong:
        place = _at(wrong.problem_mark or wrong.context_mark)
        raise NotYaml(place, ", ".join(filter(None, [wrong.context, wrong.problem]))) from None
    except yaml.reader.ReaderError as wrong:
        where = Place(0, 0, given) if given else _position(text, wrong.position)
        raise NotYaml(where, f"found the character U+{wrong.character:04X}, which YAML does not allow") from None
    except yaml.YAMLError as wrong:
        raise NotYaml(Place(0, 0, given) if given else Place(1, 1), str(wrong).splitlines()[0]) from None


def place(node: yaml.Node) -> Place:
    """Where a node begins."""
    return _at(node.start_mark)


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates, and with an end to nesting: PyYAML's time grows with its square."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node of the tree. MarkedYAMLError where it is nested too deeply."""
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} levels", problem_mark=self.get_mark())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _first, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_first] = [r for r in _resolvers if r[0] != PREFIX + "timestamp"]


def _at(mark: Optional[yaml.Mark]) -> Place:
    if mark is None:
        return Place(1, 1)
    return Place(0, 0, mark.name) if mark.name else Place(mark.line + 1, mark.column + 1)


def _position(text: str, index: int) -> Place:
    before = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text[:index])  # YAML's line breaks
    return Place(len(before), len(before[-1]) + 1)
