"""Numbers that stand where a text is wanted, as they were written: `env: {A: 010}` is "010", `version: 1.10` is "1.10"."""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from disagg_launch.spec.complaint import Path
from disagg_launch.spec.fields import WORD
from disagg_launch.spec.source import Source


def as_written(kind: Any, value: Any, source: Source, path: Path = ()) -> Any:
    """The value, which a model or annotation `kind` describes, with such numbers replaced by their texts; `value` itself is left alone."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return source.texts.get(source.written(path), value) if is_number and WORD in inner else as_written(inner[0], value, source, path)
    if origin is Union:
        return as_written(inner[0], value, source, path)
    if origin is tuple and isinstance(value, list):
        return [as_written(inner[0], item, source, (*path, i)) for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: as_written(inner[1], item, source, (*path, key)) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        kinds = {name: field.rebuild_annotation() for name, field in kind.model_fields.items()}
        return {key: as_written(kinds.get(key), item, source, (*path, key)) for key, item in value.items()}
    return value
