"""Which pairs are proved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.runtime.proof import blamed, pairs
from disagg_launch.runtime.record import Record


def rows(prefix, count):
    return [Record(f"{prefix}{n}", "127.0.0.1", 1, "") for n in range(count)]


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["auto", "cover", "pairs"]))
def test_everybody_is_in_some_pair_and_pairs_means_all(contexts, generations, how):
    chosen = pairs(rows("ctx", contexts), rows("gen", generations), how)
    assert len(chosen) == len(set(chosen))
    if contexts and generations:
        assert {one.name for pair in chosen for one in pair} == {
            *(f"ctx{n}" for n in range(contexts)),
            *(f"gen{n}" for n in range(generations)),
        }
    else:
        assert chosen == []
    if how == "pairs":
        assert len(chosen) == contexts * generations
    if how == "cover":
        assert len(chosen) == (max(contexts, generations) if contexts and generations else 0)


@pytest.mark.parametrize(("contexts", "generations", "count"), [(4, 4, 16), (1, 16, 16), (4, 5, 5), (300, 2, 300)])
def test_left_to_itself_it_proves_all_pairs_while_they_are_few(contexts, generations, count):
    assert len(pairs(rows("ctx", contexts), rows("gen", generations), "auto")) == count


def test_none_is_none():
    assert pairs(rows("ctx", 2), rows("gen", 2), "none") == []


def test_blamed_is_who_is_in_all_failing_pairs():
    (c0, c1), (g0, g1) = rows("ctx", 2), rows("gen", 2)
    every = pairs([c0, c1], [g0, g1], "pairs")
    assert blamed(every, [(c0, g0), (c0, g1)]) is c0
    assert blamed(every, [(c0, g1), (c1, g1)]) is g1
    assert blamed([(c0, g0)], [(c0, g0)]) is g0
