"""Greedy tokens of every context/generation layout equal those of one rank; and faults in the hand-over do not go unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from in_process import Instance

from disagg_launch.reference import kv, models
from disagg_launch.reference.grid import Rect
from disagg_launch.reference.models import Model

LAYOUTS = list(product((1, 2, 4), (1, 2, 4)))
PROMPTS = [list(b"The quick brown fox"), [3, 1, 4, 1, 5, 9, 2, 6], list(range(40, 120))]
LIMIT = 12

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def contexts(model: Model) -> Iterator[dict[tuple[int, int], Instance]]:
    """A context instance for every layout."""
    instances = {layout: Instance(model, *layout) for layout in LAYOUTS}
    yield instances
    for instance in instances.values():
        instance.close()


@pytest.fixture(scope="module")
def generations(model: Model) -> Iterator[dict[tuple[int, int], Instance]]:
    """A generation instance for every layout."""
    instances = {layout: Instance(model, *layout, exports=None) for layout in LAYOUTS}
    yield instances
    for instance in instances.values():
        instance.close()


@pytest.fixture(scope="module")
def expected(whole: Instance) -> list[list[int]]:
    """What one rank answers."""
    return [whole.answer(prompt, LIMIT).tokens for prompt in PROMPTS]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_alone_answers_like_one_rank(
    layout: tuple[int, int], contexts: dict[tuple[int, int], Instance], expected: list[list[int]]
) -> None:
    asked = [contexts[layout].ask(prompt, LIMIT) for prompt in PROMPTS]
    assert [one.answer().tokens for one in asked] == expected


@pytest.mark.parametrize(("context", "generation"), list(product(LAYOUTS, LAYOUTS)), ids=str)
def test_every_pair_of_layouts_answers_like_one_rank(
    context: tuple[int, int],
    generation: tuple[int, int],
    contexts: dict[tuple[int, int], Instance],
    generations: dict[tuple[int, int], Instance],
    expected: list[list[int]],
) -> None:
    answers = contexts[context].hand_over(PROMPTS, generations[generation], LIMIT)
    assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize(
    ("shape", "tp"), [("heads=9,kv_heads=3", 2), ("heads=9,kv_heads=3", 4), ("heads=6,kv_heads=2,layers=5", 5), ("heads=8,kv_heads=1", 8)]
)
def test_uneven_and_divided_kv_heads(shape: str, tp: int) -> None:
    model = models.load(f"random:3,{shape}")
    whole, context, generation = Instance(model), Instance(model, tp, 2), Instance(model, 2, 3, exports=None)
    try:
        expected = [whole.answer(prompt, LIMIT).tokens for prompt in PROMPTS]
        assert [answer.tokens for answer in context.hand_over(PROMPTS, generation, LIMIT)] == expected
    finally:
        for instance in (whole, context, generation):
            instance.close()


class Faulty(kv.Exports):
    """A KV port that changes what it sends."""

    fault: Callable[[Array, int], Array]

    def block(self, cache: Array, layer: int, heads: slice, tokens: int) -> Array:
        """The right block, spoilt."""
        if type(self).fault is exchanged_layers:
            return super().block(cache, {1: 2, 2: 1}.get(layer, layer), heads, tokens)
        return np.ascontiguousarray(type(self).fault(super().block(cache, layer, heads, tokens).copy(), layer))


def swapped_heads(block: Array, layer: int) -> Array:
    """Two KV heads exchanged in one layer."""
    return block[:, [1, 0, *range(2, block.shape[1])]] if layer == 2 else block


def exchanged_layers(block: Array, layer: int) -> Array:
    """Two layers exchanged (done in `Faulty.block`)."""
    return block


def last_token_missing(block: Array, layer: int) -> Array:
    """The last position was never filled."""
    block[:, :, -1] = 0
    return block


def keys_for_values(block: Array, layer: int) -> Array:
    """Keys and values exchanged in one layer."""
    return block[::-1] if layer == 1 else block


def one_value_head_zero(block: Array, layer: int) -> Array:
    """One head's values are lost in one layer."""
    if layer == 1:
        block[1, 0] = 0
    return block


@pytest.mark.parametrize("fault", [swapped_heads, exchanged_layers, last_token_missing, keys_for_values, one_value_head_zero])
def test_a_fault_in_the_hand_over_changes_the_answer(fault: Callable[[Array, int], Array], model: Model, expected: list[list[int]]) -> None:
    spoilt = type("Spoilt", (Faulty,), {"fault": fault})

    def exports(rect: Rect) -> kv.Exports:
        port: kv.Exports = spoilt("127.0.0.1", "127.0.0.1", rect)
        return port

    context, generation = Instance(model, exports=exports), Instance(model, 2, 2, exports=None)
    try:
        answers = context.hand_over(PROMPTS, generation, LIMIT)
        assert all(answer.tokens != right for answer, right in zip(answers, expected, strict=True))
    finally:
        context.close()
        generation.close()
