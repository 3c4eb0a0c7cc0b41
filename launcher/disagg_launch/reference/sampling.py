"""From logits to a token: greedy, or drawn with temperature, top_k and top_p. A pure function of its arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sampling:
    """How to choose. `temperature` 0 is greedy. `seed` and the token's number in the answer fix the draw, whoever makes it."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


def choose(logits: npt.NDArray[np.float32], how: Sampling, number: int) -> int:
    """The token for one row of logits; `number` counts the answer's tokens from 0.

    The draw depends on nothing but `seed` and `number`, so a context worker and a generation worker together draw what one worker would.
    """
    if how.temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # the largest goes first, so that a tiny temperature makes -inf of the others, and no NaN
        weights = np.exp((logits.astype(np.float64) - logits.max()) / how.temperature)
    tokens = np.arange(len(weights))
    if how.top_k > 0 or how.top_p < 1:
        tokens = np.argsort(-weights, kind="stable")[: how.top_k or None]
    cumulative = np.cumsum(weights[tokens])
    if how.top_p < 1:
        # the smallest set of likeliest tokens whose share reaches top_p, never empty
        cumulative = cumulative[: int(np.searchsorted(cumulative, how.top_p * cumulative[-1])) + 1]
    draw = np.random.Generator(np.random.Philox(key=how.seed, counter=number)).random()
    return int(tokens[int(np.searchsorted(cumulative, draw * cumulative[-1], side="right"))])
