"""Any program with a health URL, given in the topology file as a list of words.

A word may hold names in braces, which become the row's values: `["./serve", "--port", "{port}", "--peer={gen0.url}"]`.
`{{` and `}}` are braces. Each word stays one argument, whatever it holds; no shell reads it.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from disagg_launch.errors import BadInput
from disagg_launch.launch import RANK, WHATS, Ref, Text, Worker
from disagg_launch.plan import Instance, Plan

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Complaint, Spec

NAME = "command"
WIRE = "trtllm"
JOINS = ""
KNOWN_KEYS = None


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """The section's `command`, once per rank. BadInput for a missing command or an unknown name in braces."""
    section = spec.section(instance.role)
    words = section.command or spec.engine.command
    if not words:
        raise BadInput("engine.command: nothing found; the engine `command` needs the words of a command line there or in each section")
    known = {"router", *(i.name for i in plan.instances)}
    given = {"model": section.model or spec.model or ""}
    argv = tuple(parse(word, known, "command", given) for word in words)
    return Worker(instance=instance.name, argv=argv, tasks=spec.engine.tasks or RANK, gpus=False)


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """None: the program brings its own."""
    return {}


def prepare(spec: Spec) -> tuple[File, ...]:
    """Nothing has to be made beforehand."""
    return ()


def check(spec: Spec, plan: Plan) -> tuple[Complaint, ...]:
    """Nothing beyond what lint says."""
    return ()


def plain(word: str) -> str:
    """The word as it has to be written in a template to stay as it is."""
    return word.replace("{", "{{").replace("}", "}}")


def parse(word: str, known: set[str], where: str, given: Mapping[str, str] = MappingProxyType({}), default: str = "") -> Text:
    """The word with each `{what}` or `{instance.what}` as a Ref and each name in `given` as its value.

    A bare `{what}` is of instance `default`: "" is the reader's own. BadInput, beginning with `where`, if a name is unknown.
    """
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
        if name in given and not spec and not conversion:
            parts.append(given[name])
            continue
        of, _, what = name.rpartition(".")
        if spec or conversion or what not in WHATS or (of and of not in known):
            nearest = difflib.get_close_matches(name, [*given, *WHATS, *(f"{k}.url" for k in known)], 1)
            meant = f"; did you mean {{{nearest[0]}}}?" if nearest else ""
            raise BadInput(
                f"{where}: {word!r} asks for {{{name}}}; known are {', '.join([*given, *WHATS])}, alone or after an instance's name{meant}"
            )
        parts.append(Ref(what, of or default))
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
