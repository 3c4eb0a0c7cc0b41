"""`--set KEY=VALUE`: values that stand in for the file's, put into the tree of nodes before anything looks at it.

So all that is said about the file is said about them too, and the text that is made of the tree is the file that would have done the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Optional, Union

import yaml

from disagg_launch.spec.complaint import Complaint, Path, dotted, printable
from disagg_launch.spec.nodes import DEEPEST, MERGE, PREFIX, NotYaml, compose

OPTION = "--set"
PART = re.compile(r"(?:(?<=.)\.|^)((?:[^.\[\]\\]|\\.)+)|\[(0|[1-9]\d{0,5})\]")
"""One step of a key: a name, in which a backslash takes its meaning from the next character, or the number of a list's item."""
NUMBER = re.compile("0|[1-9][0-9]{0,5}")
LONGEST = 200
"""So much of an option is said in a complaint."""
MADE = "# Made from "


class _Refused(Exception):
    """An option that cannot be carried out: which key, and why."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path, self.text = path, text


def applied(root: yaml.Node, options: Sequence[str], file: str) -> tuple[yaml.Node, list[Complaint]]:
    """The tree with the options' values in it, one after the other, and a complaint for each option that cannot be carried out."""
    wrong = []
    for option in options:
        given = printable(f"{OPTION} {shlex.quote(option if len(option) <= LONGEST else option[:LONGEST] + '...')}")
        try:
            root = _put(root, *_read(option, given))
        except NotYaml as no:
            wrong.append(Complaint(file, *no.place[:2], "", no.text, given=given))
        except _Refused as no:
            wrong.append(Complaint(file, 0, 0, dotted(no.path), no.text, given=given))
    return root, wrong


def text_of(root: yaml.Node, options: Sequence[str], file: str, before: str) -> str:
    """The tree as a file, under a comment on how it was made, and how what it was made from was, if `before`, its text, says so."""
    said = [MADE + printable(f"{file} by {' '.join(f'{OPTION} {shlex.quote(one)}' for one in options)}"), *origin(before)]
    # ASCII: PyYAML writes some Unicode line breaks in a form that it reads back as other text
    return "\n".join(said) + "\n" + yaml.serialize(root, Dumper=yaml.SafeDumper, width=10_000)


def origin(text: str) -> list[str]:
    """The comments at the head of a topology file that say by which options it was made from which."""
    return list(takewhile(lambda line: line.startswith(MADE), text.splitlines()))


def _read(option: str, given: str) -> tuple[Path, yaml.Node]:
    """The key's path, and the value as a node. _Refused, or NotYaml, if it is none."""
    key, equals, text = option.partition("=")
    if not equals:
        raise _Refused((), "found no `=`; needed: KEY=VALUE")
    path = tuple(_path(key))
    if len(path) > DEEPEST:
        raise _Refused((), f"found a key of {len(path)} levels; allowed: {DEEPEST}")
    pair = compose(f"v: {text}", given)  # as it would stand in a file
    if not isinstance(pair, yaml.MappingNode) or len(pair.value) != 1:
        raise _Refused(path, "found more than a value; needed: what stands behind a key in one line of a file")
    return path, pair.value[0][1]


def _path(key: str) -> Iterator[Union[str, int]]:
    at = 0
    while found := PART.match(key, at):
        yield re.sub(r"\\(.)", r"\1", found[1]) if found[1] else int(found[2])
        at = found.end()
    if at < len(key) or not key:
        raise _Refused((), f"found {key!r} before the `=`; needed: a key such as cluster.nodes or context_servers.urls[0]")


def _put(node: Optional[yaml.Node], path: Path, value: yaml.Node, depth: int = 0) -> yaml.Node:
    """`node` with `value` at the path from `depth` on. _Refused where no way leads there.

    What changes is copied, so that another alias of it stays as it was.
    """
    if depth == len(path):
        return value
    part = path[depth]
    if node is None or node.tag == PREFIX + "null":
        make, kind = (yaml.SequenceNode, "seq") if isinstance(part, int) else (yaml.MappingNode, "map")
        node = make(PREFIX + kind, [], value.start_mark, value.end_mark, flow_style=False)
    inside = list(node.value) if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.SequenceNode) and NUMBER.fullmatch(str(part)) and int(part) <= len(inside):
        old = inside[int(part)] if int(part) < len(inside) else None
        inside[int(part) : int(part) + 1] = [_put(old, path, value, depth + 1)]
        return yaml.SequenceNode(node.tag, inside, node.start_mark, node.end_mark, node.flow_style)
    if isinstance(node, yaml.MappingNode) and isinstance(part, str):
        own = next((i for i, (key, _) in enumerate(inside) if key.tag != MERGE and key.value == part), len(inside))
        key, old = next(_called(node, part, set()), (_key(part, value), None))
        inside[own : own + 1] = [(key, _put(old, path, value, depth + 1))]
        return yaml.MappingNode(node.tag, inside, node.start_mark, node.end_mark, node.flow_style)
    raise _Refused(path[:depth], f"found {_shown(node)}; it has no {dotted((part,))}")


def _called(node: yaml.Node, name: str, seen: set[int]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The map's pairs with that key: its own, then those that `<<` brings; each map is looked at once."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    yield from ((key, value) for key, value in node.value if key.tag != MERGE and key.value == name)
    for _, brought in (pair for pair in node.value if pair[0].tag == MERGE):
        for other in brought.value if isinstance(brought, yaml.SequenceNode) else [brought]:
            yield from _called(other, name, seen)


def _key(name: str, value: yaml.Node) -> yaml.Node:
    kind = "int" if NUMBER.fullmatch(name) else "str"
    return yaml.ScalarNode(PREFIX + kind, name, value.start_mark, value.end_mark)


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"{node.value!r:.60}, which is neither a map nor a list"
    return f"a {'map' if isinstance(node, yaml.MappingNode) else 'list'} of {len(node.value)}"
