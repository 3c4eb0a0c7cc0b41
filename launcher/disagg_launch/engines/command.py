"""Any program with a health URL, given in the topology file as a list of words.

A word may hold names in braces, which become the row's values: `["./serve", "--port", "{port}", "--peer={gen0.url}"]`.
`{{` and `}}` are braces. Each word stays one argument, whatever it holds; no shell reads it.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from disagg_launch.errors import BadInput
from disagg_launch.launch import RANK, WHATS, Ref, Text, Worker
from disagg_launch.plan import SECTION, Instance, Plan
from disagg_launch.spec.complaint import Path

if TYPE_CHECKING:
    from disagg_launch.files import File
    from disagg_launch.spec import Complaint, Spec

NAME = "command"
WIRE = "trtllm"
JOINS = ""
KNOWN_AS = NAME
KNOWN_KEYS = None
NOTHING: Mapping[str, str] = MappingProxyType({})


def worker(spec: Spec, plan: Plan, instance: Instance) -> Worker:
    """The section's `command`, once per rank. BadInput for an unknown name in braces."""
    path, words = _command(spec, instance.role)
    argv = parsed(spec, path, words, plan, _given(spec, instance.role))
    return Worker(instance=instance.name, argv=argv, tasks=spec.engine.tasks or RANK, gpus=False)


def files(spec: Spec, plan: Plan) -> dict[str, Text]:
    """None: the program brings its own."""
    return {}


def prepare(spec: Spec) -> tuple[File, ...]:
    """Nothing has to be made beforehand."""
    return ()


def check(spec: Spec, plan: Plan) -> Iterator[Complaint]:
    """Words that cannot be filled in."""
    for role in dict.fromkeys(one.role for one in plan.instances):
        path, words = _command(spec, role)
        for i, word in enumerate(words):
            try:
                parse(word, _names(plan), _given(spec, role))
            except BadInput as wrong:
                yield spec.source.complaint((*path, i), str(wrong))


def _command(spec: Spec, role: str) -> tuple[Path, tuple[str, ...]]:
    """Where the words of a role's workers stand in the file, and the words."""
    own = spec.section(role).command
    return ((SECTION[role], "command"), own) if own else (("engine", "command"), spec.engine.command or ())


def _given(spec: Spec, role: str) -> dict[str, str]:
    return {"model": spec.section(role).model or spec.model or ""}


def _names(plan: Plan) -> set[str]:
    return {"router", *(one.name for one in plan.instances)}


def parsed(
    spec: Spec, path: Path, words: Sequence[str], plan: Plan, given: Mapping[str, str] = NOTHING, default: str = ""
) -> tuple[Text, ...]:
    """Each word as by `parse`. BadInput at the word's place in the file."""
    out = []
    for i, word in enumerate(words):
        try:
            out.append(parse(word, _names(plan), given, default))
        except BadInput as wrong:
            raise BadInput(str(spec.source.complaint((*path, i), str(wrong)))) from None
    return tuple(out)


def plain(word: str) -> str:
    """The word as it has to be written in a template to stay as it is."""
    return word.replace("{", "{{").replace("}", "}}")


def parse(word: str, known: set[str], given: Mapping[str, str] = NOTHING, default: str = "") -> Text:
    """The word with each `{what}` or `{instance.what}` as a Ref and each name in `given` as its value.

    A bare `{what}` is of instance `default`: "" is the reader's own. BadInput if a name is unknown.
    """
    parts: list[str | Ref] = []
    try:
        pieces = list(string.Formatter().parse(word))
    except ValueError as error:
        raise BadInput(f"found {word!r}: {error}; write {{{{ and }}}} for braces") from None
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
            every = ", ".join([*given, *WHATS])
            raise BadInput(f"found {word!r}, which asks for {{{name}}}; allowed: {every}, alone or after an instance's name{meant}")
        parts.append(Ref(what, of or default))
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
