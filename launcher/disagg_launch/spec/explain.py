"""pydantic's errors as complaints: where in the file, what was found, what is allowed, what was probably meant."""

from __future__ import annotations

import re
import typing
from typing import Any, Iterable, Optional

from pydantic import BaseModel, ValidationError

from disagg_launch.spec.complaint import Complaint, Path, did_you_mean, found, listed
from disagg_launch.spec.fields import NAME
from disagg_launch.spec.source import Source

PLAIN = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "a smaller integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "tuple_type": "a list",
    "none_required": "nothing",
    "invalid_key": "text",
}
PATTERNS = {NAME: "at most 63 letters, digits, _ . and -, the first a letter or digit"}
MAPS = ("model_type", "model_attributes_type")
LIMITS = {"greater_than_equal": "at least {ge}", "greater_than": "more than {gt}", "less_than_equal": "at most {le}"}


def explain(error: ValidationError, source: Source, model: type[BaseModel]) -> list[Complaint]:
    """One complaint for each error of validating the file's values as `model`."""
    return [_one(dict(one), source, model) for one in error.errors(include_url=False)]


def _one(error: dict[str, Any], source: Source, model: type[BaseModel]) -> Complaint:
    path, is_key = _path(error["loc"], source)
    kind, context = error["type"], error.get("ctx", {})
    is_key = is_key or kind == "invalid_key"
    if kind in MAPS and isinstance(error["input"], str) and "name" in _keys(model, path):
        return source.complaint(path, f"found {found(error['input'])}; allowed: a map, here {{name: {error['input']}}}")
    if kind == "extra_forbidden":
        return source.complaint(path, unknown_key(path[-1], _keys(model, path[:-1])), key=True)
    if kind == "missing":
        return source.complaint(path, "is missing", key=True)
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"])
        return source.complaint(
            path, f"found {found(error['input'])}; allowed: {listed(words)}{did_you_mean(error['input'], words)}", key=is_key
        )
    return source.complaint(
        path, f"found {found(error['input'])}; allowed: {_allowed(kind, context, error['msg'], error['input'])}", key=is_key
    )


def unknown_key(key: object, known: Iterable[str]) -> str:
    """The text of a complaint about a key that a map of ours does not have."""
    words = sorted(known)
    return f"found an unknown key; allowed: {listed(words)}{did_you_mean(key, words)}"


def _allowed(kind: str, context: dict[str, Any], message: str, value: Any) -> str:
    if kind in LIMITS:
        return LIMITS[kind].format(**context)
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text of the form {context['pattern']}")
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_type" and isinstance(value, bool):
        return "text (put it in quotes)"
    return PLAIN.get(kind, message)


def _path(loc: tuple[Any, ...], source: Source) -> tuple[Path, bool]:
    """The key path of an error as it stands in the file, and whether it is the key itself that is wrong."""
    is_key = bool(loc) and loc[-1] == "[key]"
    return source.written(tuple(loc[:-1] if is_key else loc)), is_key


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys of the map at `path`, read off the models."""
    here: Optional[type[BaseModel]] = model
    for part in path:
        if here is not None and part in here.model_fields:
            here = _inner(here.model_fields[str(part)].annotation)
    return list(here.model_fields) if here else []


def _inner(annotation: Any) -> Optional[type[BaseModel]]:
    """The first model in a type such as Optional[Model] or dict[str, Model]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner(one) for one in typing.get_args(annotation))
    return next((one for one in inner if one is not None), None)
