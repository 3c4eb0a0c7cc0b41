"""Text of every rendered script, and the one place that quotes for the shell.

A template writes `{{ value }}` and gets one quoted shell word; a list or tuple gives several. What is meant to be shell
text already is wrapped in `Raw`, in Python, where a reviewer sees it. An unknown name in a template is an error.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable
from typing import Any

import jinja2

from disagg_launch.errors import BadInput


class Raw(str):
    """Shell text that is put into a script as it stands."""

    __slots__ = ()


def render(template_name: str, **values: Any) -> str:
    """The text of `templates/<template_name>` with `values` filled in, each quoted for the shell.

    BadInput if a value cannot stand in a script; jinja2.UndefinedError if the template asks for a name that was not given.
    """
    return _environment().get_template(template_name).render(values)


def quote(value: Any) -> Raw:
    """`value` as shell text: Raw unchanged, a list or tuple as several words, anything else as one word.

    BadInput for a NUL byte, which no script and no process can carry; TypeError for a value that has no one spelling.
    """
    if isinstance(value, Raw):
        return value
    if isinstance(value, (list, tuple)):
        return Raw(" ".join(quote(one) for one in value))
    if isinstance(value, jinja2.Undefined):
        return Raw(str(value))  # str() of an undefined name raises and names it
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f"a {type(value).__name__} ({value!r}) has no one spelling in a shell script: give text, a number or a list")
    if "\0" in str(value):
        raise BadInput(f"{value!r} holds a NUL byte, which no command line can carry: remove it")
    return Raw(shlex.quote(str(value)))


def quote_lines(words: Iterable[Any], indent: str = "    ") -> Raw:
    """The words as one command over several lines: an option begins a new line, and its value stays beside it."""
    out = ""
    for number, word in enumerate(words):
        starts_line = number > 0 and str(word).startswith("-")
        out += (f" \\\n{indent}" if starts_line else " " if number else "") + quote(word)
    return Raw(out)


def comment(value: Any) -> Raw:
    """`value` for the rest of a `#` line: whatever would end the line or hide in it is escaped."""
    return Raw("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)))


@functools.lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    # not HTML: escaping here is quoting for the shell, done by `finalize` for every expression of every template
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.PackageLoader("disagg_launch.templates", ""),
        finalize=quote,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(lines=quote_lines, comment=comment)
    return environment
