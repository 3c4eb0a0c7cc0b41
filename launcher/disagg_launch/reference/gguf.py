"""A reader for GGUF model files (version 2 and 3): metadata, and tensors as float32.

Source of the format: the GGUF specification of the ggml project. Only the tensor types that our models use are decoded.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from disagg_launch.errors import BadInput

Array = npt.NDArray[np.float32]

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    """An open GGUF file: `meta` (key -> value) and `tensor(name)`. The file stays mapped while this object lives."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        if self._take(4) != MAGIC:
            raise BadInput(f"{path}: not a GGUF file (it does not begin with {MAGIC.decode()})")
        version = self._scalar("I")
        if version not in (2, 3):
            raise BadInput(f"{path}: GGUF version {version} found, 2 or 3 needed")
        tensors, pairs = self._scalar("Q"), self._scalar("Q")
        self.meta: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text()
            self.meta[key] = self._value(self._scalar("I"))
        self._index = dict(self._entry() for _ in range(tensors))
        align = self.meta.get("general.alignment", 32)
        self._data = -(-self._at // align) * align

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def tensor(self, name: str) -> Array:
        """The tensor as float32, shape in NumPy's order (slowest first). BadInput for a type that is not decoded here."""
        shape, kind, offset = self._index[name]
        if kind not in DECODERS:
            raise BadInput(f"tensor {name}: GGUF type {kind} found, one of {sorted(DECODERS)} needed")
        size, decode = DECODERS[kind]
        count = int(np.prod(shape))
        length = count // size[0] * size[1]
        start = self._data + offset
        return decode(np.frombuffer(self._map, np.uint8, length, start)).reshape(shape)

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._map[self._at - count : self._at]

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._map, self._at)
        self._at += struct.calcsize(code)
        return value

    def _text(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._scalar(SCALARS[kind])
        item, count = self._scalar("I"), self._scalar("Q")
        if item in SCALARS:
            return list(struct.unpack("<" + SCALARS[item] * count, self._take(count * struct.calcsize(SCALARS[item]))))
        return [self._value(item) for _ in range(count)]

    def _entry(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name, rank = self._text(), self._scalar("I")
        shape = tuple(self._scalar("Q") for _ in range(rank))[::-1]
        return name, (shape, self._scalar("I"), self._scalar("Q"))


def _f32(raw: npt.NDArray[np.uint8]) -> Array:
    return raw.view(np.float32)


def _f16(raw: npt.NDArray[np.uint8]) -> Array:
    return raw.view(np.float16).astype(np.float32)


def _q4_1(raw: npt.NDArray[np.uint8]) -> Array:
    """32 weights in 20 bytes: scale and minimum (f16), then 16 bytes whose low halves are the first 16 weights."""
    blocks = raw.reshape(-1, 20)
    scale = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    least = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return np.asarray(halves * scale + least, np.float32)


def _q8_0(raw: npt.NDArray[np.uint8]) -> Array:
    """32 weights in 34 bytes: scale (f16), then signed bytes."""
    blocks = raw.reshape(-1, 34)
    scale = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    return np.asarray(blocks[:, 2:].view(np.int8) * scale, np.float32)


# GGUF type -> ((weights per block, bytes per block), decoder)
DECODERS: dict[int, tuple[tuple[int, int], Callable[[npt.NDArray[np.uint8]], Array]]] = {
    0: ((1, 4), _f32),
    1: ((1, 2), _f16),
    3: ((32, 20), _q4_1),
    8: ((32, 34), _q8_0),
}
