"""A model's tensors by canonical name, as float32: from a flat memory-mapped file, or made from a seed.

Names: `embed` (vocab, width), `norm` (width), `head` (vocab, width; absent when tied to `embed`), and for layer N `N.attn_norm`, `N.qkv`,
`N.out`, `N.ffn_norm`, `N.gate_up`, `N.down`. All matrices are (out, in).
`qkv` is (groups, repeat + 2, head_size, width): for each KV head its query heads, its key, its value, so that a rank's share is one slice.
`gate_up` is (2, hidden, width). Queries are already divided by sqrt(head_size). Rotary positions pair element i with i + head_size / 2.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from disagg_launch.reference.gguf import Gguf
from disagg_launch.reference.grid import Shape

Array = npt.NDArray[np.float32]
Named = Iterable[tuple[str, Array]]

ALIGN = 64  # bytes: a cache line


def write_flat(path: Path, tensors: Named) -> None:
    """Write all tensors to `path` and their places to `path`.json. Each appears complete or not at all, the index last."""
    index: dict[str, tuple[int, tuple[int, ...]]] = {}
    draft = path.with_suffix(f".{os.getpid()}.part")
    with draft.open("wb") as file:
        for name, tensor in tensors:
            file.write(b"\0" * (-file.tell() % ALIGN))
            index[name] = (file.tell(), tensor.shape)
            file.write(np.ascontiguousarray(tensor, dtype=np.float32).data)
    draft.replace(path)
    draft.write_text(json.dumps(index))
    draft.replace(index_path(path))


def index_path(path: Path) -> Path:
    """Where the index of a flat file lies."""
    return path.with_suffix(".json")


def read_flat(path: Path) -> Mapping[str, Array]:
    """The tensors of a flat file as read-only views of one mapping, which every process of the host shares."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index = json.loads(index_path(path).read_text())
    return {name: np.frombuffer(mapped, np.float32, math.prod(shape), offset).reshape(shape) for name, (offset, shape) in index.items()}


def shape_of_gguf(file: Gguf) -> Shape:
    """The sizes in a GGUF file of the Llama family."""
    meta = file.meta
    heads, groups = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    return Shape(
        layers=meta["llama.block_count"],
        groups=groups,
        repeat=heads // groups,
        head_size=meta["llama.embedding_length"] // heads,
        width=meta["llama.embedding_length"],
        hidden=meta["llama.feed_forward_length"],
        vocab=meta["llama.vocab_size"],
        context=meta["llama.context_length"],
        rope_base=meta["llama.rope.freq_base"],
        epsilon=meta["llama.attention.layer_norm_rms_epsilon"],
        tied="output.weight" not in file,
    )


def from_gguf(file: Gguf) -> Named:
    """Canonical tensors of a GGUF file of the Llama family, one at a time."""
    shape = shape_of_gguf(file)
    yield "embed", file.tensor("token_embd.weight")
    yield "norm", file.tensor("output_norm.weight")
    if not shape.tied:
        yield "head", file.tensor("output.weight")
    for n in range(shape.layers):
        block = f"blk.{n}."
        query, key, value = (file.tensor(f"{block}attn_{part}.weight") for part in "qkv")
        yield f"{n}.attn_norm", file.tensor(block + "attn_norm.weight")
        yield f"{n}.qkv", fuse(shape, query, key, value)
        yield f"{n}.out", file.tensor(block + "attn_output.weight")
        yield f"{n}.ffn_norm", file.tensor(block + "ffn_norm.weight")
        yield f"{n}.gate_up", np.stack([file.tensor(block + "ffn_gate.weight"), file.tensor(block + "ffn_up.weight")])
        yield f"{n}.down", file.tensor(block + "ffn_down.weight")


def glass(path: Path) -> tuple[Shape, Named]:
    """Sizes and canonical tensors of a model that the glassllm package saved. Its matrices are (in, out) and its pairs adjacent."""
    raw = np.load(path)
    config = json.loads(str(raw["__config__"]))
    shape = Shape(
        layers=config["n_layers"],
        groups=config["n_kv_heads"],
        repeat=config["n_heads"] // config["n_kv_heads"],
        head_size=config["d_model"] // config["n_heads"],
        width=config["d_model"],
        hidden=raw["blocks.0.ffn.W1"].shape[1],
        vocab=config["vocab_size"],
        context=config["max_len"],
        rope_base=config["rope_base"],
        epsilon=config["eps"],
        tied=True,
    )

    def tensors() -> Named:
        yield "embed", raw["E"].astype(np.float32)
        yield "norm", raw["norm_f.gamma"].astype(np.float32)
        for n in range(shape.layers):
            block = {name: raw[f"blocks.{n}.{name}"].astype(np.float32).T for name in GLASS_PARTS}
            yield f"{n}.attn_norm", block["norm1.gamma"]
            yield f"{n}.qkv", fuse(shape, block["attn.W_Q"], block["attn.W_K"], block["attn.W_V"])
            yield f"{n}.out", block["attn.W_O"]
            yield f"{n}.ffn_norm", block["norm2.gamma"]
            yield f"{n}.gate_up", np.stack([block["ffn.W1"], block["ffn.W3"]])
            yield f"{n}.down", block["ffn.W2"]

    return shape, tensors()


GLASS_PARTS = ("norm1.gamma", "attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "norm2.gamma", "ffn.W1", "ffn.W3", "ffn.W2")


def fuse(shape: Shape, query: Array, key: Array, value: Array) -> Array:
    """The `qkv` tensor from separate matrices whose rotary pairs are adjacent (2i with 2i + 1)."""
    groups, size, width = shape.groups, shape.head_size, shape.width

    def halves(matrix: Array) -> Array:
        paired: Array = matrix.reshape(groups, -1, size // 2, 2, width).transpose(0, 1, 3, 2, 4)
        return paired.reshape(groups, -1, size, width)

    scaled = halves(query) * np.float32(1 / math.sqrt(size))
    fused: Array = np.concatenate([scaled, halves(key), value.reshape(groups, 1, size, width)], axis=1)
    return fused


def from_seed(shape: Shape, seed: int) -> Mapping[str, Array]:
    """Random tensors. The head is never tied and attention is strong: a tied head repeats its input whatever the KV cache holds,
    which would hide every fault of the hand-over."""
    draw = np.random.default_rng(seed)

    def normal(gain: float, *sizes: int) -> Array:
        drawn: Array = draw.standard_normal(sizes, dtype=np.float32)
        drawn *= np.float32(gain / math.sqrt(sizes[-1]))
        return drawn

    heads = shape.groups * shape.repeat
    tensors = {"embed": draw.standard_normal((shape.vocab, shape.width), dtype=np.float32) * np.float32(0.3)}
    tensors |= {"norm": np.ones(shape.width, np.float32), "head": normal(1.0, shape.vocab, shape.width)}
    for n in range(shape.layers):
        qkv = normal(1.5, shape.groups, shape.repeat + 2, shape.head_size, shape.width)
        qkv[:, : shape.repeat] /= np.float32(math.sqrt(shape.head_size))
        qkv[:, shape.repeat + 1] /= np.float32(1.5)
        tensors |= {
            f"{n}.attn_norm": np.ones(shape.width, np.float32),
            f"{n}.qkv": qkv,
            f"{n}.out": normal(1.5, shape.width, heads * shape.head_size),
            f"{n}.ffn_norm": np.ones(shape.width, np.float32),
            f"{n}.gate_up": normal(1.0, 2, shape.hidden, shape.width),
            f"{n}.down": normal(1.0, shape.width, shape.hidden),
        }
    return tensors
