"""How large a model's weights are, as far as this machine can see its files. The planning half gets this as an argument."""

from __future__ import annotations

import json
import pathlib

# a checkpoint may hold the same weights in several formats; engines take the first of these that is there
SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
INDEX = "model.safetensors.index.json"
MOST_BYTES = 1 << 26


def on_disk(model: str) -> int:
    """Bytes of the weights in the directory or file `model`; 0 if there is none, as for a name that is yet to be downloaded."""
    path = pathlib.Path(model).expanduser()
    try:
        if path.is_file():
            return path.stat().st_size
        sizes = {file: file.stat().st_size for file in path.iterdir()} if path.is_dir() else {}
    except OSError:
        return 0
    sums = (sum(size for file, size in sizes.items() if file.suffix == suffix) for suffix in SUFFIXES)
    # the files may be place holders of git's large file storage, and then the index tells the truth
    return max(next((total for total in sums if total), 0), _indexed(path / INDEX))


def _indexed(index: pathlib.Path) -> int:
    """What the index of a checkpoint in parts says of its size; 0 if there is none to be read."""
    try:
        raw = json.loads(index.read_text(encoding="utf-8")) if index.stat().st_size < MOST_BYTES else {}
        size = raw["metadata"]["total_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return int(size) if isinstance(size, (int, float)) and size > 0 else 0
