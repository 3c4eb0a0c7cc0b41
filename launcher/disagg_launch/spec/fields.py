"""Kinds of values in a topology file, and what every map of ours has in common."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]
Positive = Annotated[float, Field(gt=0, le=31_536_000)]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def no_control(value: str) -> str:
    """The text, if a configuration line can hold it; ValueError otherwise."""
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("text without control characters or line breaks")
    return value


def _variable(value: str) -> str:
    if not value or "=" in value:
        raise ValueError('the name of a variable, without "="')
    return value


def _url(value: str) -> str:
    host, _, port = value.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65_536:
        raise ValueError('"host:port" without a scheme, port 1..65535')
    return value


# A text that may be written as a number; `written` puts the number in as it was written, so 010 stays 010.
WORD = BeforeValidator(_text)
Word = Annotated[str, WORD, WithJsonSchema({"type": ["string", "number"]})]
Line = Annotated[str, AfterValidator(no_control)]
Short = Annotated[Word, AfterValidator(no_control)]
Url = Annotated[str, AfterValidator(_url)]
Environ = dict[Annotated[str, AfterValidator(_variable)], Word]
Command = Many[Word]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME)]


class Closed(BaseModel):
    """A map of ours: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )
