"""Any program with a health URL, given in the topology file as a list of words.

A word may hold names in braces, which become the row's values: `["./serve", "--port", "{port}", "--peer={gen0.url}"]`.
`{{` and `}}` are braces. Each word stays one argument, whatever it holds; no shell reads it.
"""

from __future__ import annotations

import difflib
import string
from typing import TYPE_CHECKING

from disagg_launch.errors import BadInput
from disagg_launch.launch import RANK, WHATS, Ref, Text, Worker
from disagg_launch.plan import Instance, Plan

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

NAME = "command"
WIRE = "trtllm"
KNOWN_KEYS = None


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """The section's `command`, once per rank. BadInput for a missing command or an unknown name in braces."""
    section = spec.section(instance.role)
    if not section.command:
        raise BadInput(f"{instance.role}_servers.command: nothing found; the engine `command` needs the words of a command line there")
    known = {"router", *(i.name for i in plan.instances)}
    argv = tuple(parse(word, known, f"{instance.role}_servers.command") for word in section.command)
    return Worker(instance=instance.name, argv=argv, tasks=RANK, health=section.health)


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """None: the program brings its own."""
    return {}


def parse(word: str, known: set[str], where: str) -> Text:
    """The word with each `{what}` or `{instance.what}` as a Ref. BadInput, beginning with `where`, if a name is unknown."""
    parts: list[str | Ref] = []
    try:
        pieces = list(string.Formatter().parse(word))
    except ValueError as error:
        raise BadInput(f"{where}: {word!r}: {error}; write {{{{ and }}}} for braces") from None
    for literal, name, spec, conversion in pieces:
        if literal:
            parts.append(literal)
        if name is None:
            continue
        of, _, what = name.rpartition(".")
        if spec or conversion or what not in WHATS or (of and of not in known):
            nearest = difflib.get_close_matches(name, [*WHATS, *(f"{k}.url" for k in known)], 1)
            meant = f"; did you mean {{{nearest[0]}}}?" if nearest else ""
            raise BadInput(f"{where}: {word!r} asks for {{{name}}}; known are {', '.join(WHATS)}, alone or after an instance's name{meant}")
        parts.append(Ref(what, of))
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
