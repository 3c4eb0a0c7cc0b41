"""The forward pass of a Llama-family model on one rank's share of it.

Activations are (features, tokens): NumPy's BLAS is fastest with the weight matrix on the left, from one token to many, and a matrix-vector
product is used for a single token. A batch is ragged: the tokens of several sequences side by side, prompts and single new tokens alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import numpy.typing as npt

from disagg_launch.reference.comm import Comm
from disagg_launch.reference.grid import Place, Shape
from disagg_launch.reference.models import Model

Array = npt.NDArray[np.float32]

LOADS_TOLD = 10
"""So many lines tell how far a rank is with its layers."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """`count` neighbouring tokens of one sequence at columns `column` .. of the batch, at positions `start` .. of the sequence.

    `cache` is the sequence's (layers, 2, KV heads, capacity, head_size) on this rank, keys first, filled up to `start`.
    """

    column: int
    start: int
    count: int
    cache: Array


@dataclass(frozen=True)
class _Layer:
    """One layer's share of the weights."""

    attn_norm: Array
    qkv: Array
    out: Array
    ffn_norm: Array
    gate_up: Array
    down: Array


class Stage:
    """One rank's layers. Calls `mates` (its tensor-parallel group) to add partial sums; hands activations on by itself."""

    def __init__(self, model: Model, place: Place, mates: Comm) -> None:
        self.shape, self.place, self._mates = model.shape, place, mates
        tensors = model.tensors
        self._layers = []
        whole = place.rect.layer1 - place.rect.layer0
        for n in range(whole):
            self._layers.append(_layer(tensors, place.rect.layer0 + n, model.shape, place))
            if (n + 1) * LOADS_TOLD // whole > n * LOADS_TOLD // whole:
                log.info("loading weights: %d of %d layers", n + 1, whole)
        self._embed, self._norm = tensors["embed"], tensors["norm"][:, None]
        self._head = tensors.get("head", self._embed)[place.vocab.start : place.vocab.stop]
        self._cos, self._sin = _rotary(model.shape)

    def empty_cache(self, capacity: int) -> Array:
        """Room for one sequence of up to `capacity` tokens. The system gives the memory page by page as it is filled."""
        rect = self.place.rect
        return np.empty((rect.layer1 - rect.layer0, 2, rect.head1 - rect.head0, capacity, self.shape.head_size), np.float32)

    def embed(self, tokens: Sequence[int]) -> Array:
        """The activations that enter the first layer."""
        return np.ascontiguousarray(self._embed[list(tokens)].T)

    def layers(self, x: Array, runs: Sequence[Run]) -> Array:
        """The activations after this rank's layers; the caches of `runs` get the new keys and values."""
        positions = np.concatenate([np.arange(run.start, run.start + run.count) for run in runs])
        cos, sin = self._cos[:, positions], self._sin[:, positions]
        for number, layer in enumerate(self._layers):
            mixed = self._attend(layer, number, _normed(x, layer.attn_norm, self.shape.epsilon), runs, cos, sin)
            x = x + self._mates.sum(layer.out @ mixed)
            gate, up = layer.gate_up @ _normed(x, layer.ffn_norm, self.shape.epsilon)
            x += self._mates.sum(layer.down @ (_silu(gate) * up))
        return x

    def logits(self, x: Array, columns: Sequence[int]) -> Optional[Array]:
        """(len(columns), vocab) for the tokens at those columns, on the stage's first rank; None on its other ranks."""
        picked = np.ascontiguousarray(x[:, list(columns)])
        shards = self._mates.gather(self._head @ _normed(picked, self._norm, self.shape.epsilon))
        return None if shards is None else np.ascontiguousarray(np.concatenate(shards).T)

    def _attend(self, layer: _Layer, number: int, x: Array, runs: Sequence[Run], cos: Array, sin: Array) -> Array:
        """What attention passes to the output matrix: (query heads * head_size, tokens)."""
        groups, parts, size, width = layer.qkv.shape
        tokens = x.shape[1]
        qkv = (layer.qkv.reshape(-1, width) @ x).reshape(groups, parts, size, tokens)
        _rotate(qkv[:, :-1], cos, sin)
        mixed = np.empty((groups, parts - 2, size, tokens), np.float32)
        single = next((i for i, run in enumerate(runs) if run.count > 1), len(runs))
        if single:
            caches = [run.cache[number] for run in runs[:single]]
            mixed[..., :single] = _attention_of_singles(qkv[..., :single], caches, [run.start for run in runs[:single]])
        for run in runs[single:]:
            columns = slice(run.column, run.column + run.count)
            mixed[..., columns] = _attention(qkv[..., columns], run.cache[number], run.start)
        return mixed.reshape(-1, tokens)


def _attention(qkv: Array, cache: Array, start: int) -> Array:
    """(groups, repeat, head_size, tokens) for neighbouring tokens of one sequence from position `start` on, which enter its cache."""
    groups, parts, size, tokens = qkv.shape
    total = start + tokens
    cache[:, :, start:total] = qkv[:, -2:].transpose(1, 0, 3, 2)
    keys, values = cache[:, :, :total]
    rows = qkv[:, :-2].transpose(0, 1, 3, 2).reshape(groups, -1, size)
    scores = rows @ keys.swapaxes(1, 2)
    # a token sees the positions up to its own, which are the last `tokens` of all
    future = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    scores.reshape(groups, parts - 2, tokens, total)[..., start:] += future
    mixed: Array = _softmax(scores) @ values
    heads: Array = mixed.reshape(groups, parts - 2, tokens, size).transpose(0, 1, 3, 2)
    return heads


def _attention_of_singles(qkv: Array, caches: Sequence[Array], starts: Sequence[int]) -> Array:
    """(groups, repeat, head_size, sequences) for one new token in each of several sequences.

    Only the two products are made per sequence. All else is done at once for all, because with small models the calls cost more than the
    arithmetic.
    """
    query, new = qkv[:, :-2].transpose(3, 0, 1, 2), qkv[:, -2:].transpose(3, 1, 0, 2)
    scores = np.full((*query.shape[:-1], max(starts) + 1), -np.inf, np.float32)
    for i, (cache, start) in enumerate(zip(caches, starts)):
        cache[:, :, start] = new[i]
        np.matmul(query[i], cache[0, :, : start + 1].swapaxes(1, 2), out=scores[i, ..., : start + 1])
    weights = _softmax(scores)
    mixed = np.empty(query.shape, np.float32)
    for i, (cache, start) in enumerate(zip(caches, starts)):
        np.matmul(weights[i, ..., : start + 1], cache[1, :, : start + 1], out=mixed[i])
    heads: Array = mixed.transpose(1, 2, 3, 0)
    return heads


def _softmax(scores: Array) -> Array:
    """The scores' shares along the last axis, in place."""
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    return scores


def _layer(tensors: Mapping[str, Array], number: int, shape: Shape, place: Place) -> _Layer:
    """A layer's share. Views of the model's tensors, except where query heads of one KV head are divided among ranks."""
    rect, query, hidden = place.rect, place.query, place.hidden
    groups = slice(rect.head0, rect.head1)
    qkv = tensors[f"{number}.qkv"][groups]
    out = tensors[f"{number}.out"].reshape(shape.width, shape.groups, shape.repeat, shape.head_size)[:, groups]
    if len(query) < shape.repeat:
        qkv = np.concatenate([qkv[:, query.start : query.stop], qkv[:, -2:]], axis=1)
        out = out[:, :, query.start : query.stop]
    return _Layer(
        attn_norm=tensors[f"{number}.attn_norm"][:, None],
        qkv=qkv,
        out=out.reshape(shape.width, -1),
        ffn_norm=tensors[f"{number}.ffn_norm"][:, None],
        gate_up=tensors[f"{number}.gate_up"][:, hidden.start : hidden.stop],
        down=tensors[f"{number}.down"][:, hidden.start : hidden.stop],
    )


def _normed(x: Array, gain: Array, epsilon: float) -> Array:
    """Root-mean-square normalisation of every column."""
    mean = np.add.reduce(x * x, axis=0) / np.float32(x.shape[0])
    normed: Array = x * (gain / np.sqrt(mean + np.float32(epsilon)))
    return normed


def _silu(x: Array) -> Array:
    """x / (1 + exp(-x)); a very negative x gives -0 by way of an infinite divisor."""
    with np.errstate(over="ignore"):
        activated: Array = x / (1 + np.exp(-x))
    return activated


def _rotary(shape: Shape) -> tuple[Array, Array]:
    """Cosines and sines, (head_size / 2, context)."""
    frequency = shape.rope_base ** (-2.0 * np.arange(shape.head_size // 2) / shape.head_size)
    angles = np.outer(frequency, np.arange(shape.context))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(heads: Array, cos: Array, sin: Array) -> None:
    """Turn (.., head_size, tokens) in place by each token's position; element i pairs with i + head_size / 2."""
    half = cos.shape[0]
    left, right = heads[..., :half, :], heads[..., half:, :]
    turned = left * cos - right * sin
    right *= cos
    right += left * sin
    left[...] = turned
