"""Which pairs are proved, and in which order as instances come up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.pairing import Pairing, blamed, pairs
from disagg_launch.runtime.record import Record

ROLES = {"ctx": CONTEXT, "gen": GENERATION}
hows = st.sampled_from(["auto", "cover", "pairs"])


def rows(prefix, count):
    return [Record(f"{prefix}{n}", "127.0.0.1", 1, "", role=ROLES[prefix]) for n in range(count)]


def names(chosen):
    return {one.name for pair in chosen for one in pair}


@given(st.integers(0, 9), st.integers(0, 9), hows)
def test_everybody_is_in_some_pair_and_pairs_means_all(contexts, generations, how):
    chosen = pairs(rows("ctx", contexts), rows("gen", generations), how)
    assert len(chosen) == len(set(chosen))
    if contexts and generations:
        assert names(chosen) == {*(f"ctx{n}" for n in range(contexts)), *(f"gen{n}" for n in range(generations))}
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


def played(arrivals, contexts, generations, how):
    """The pairs that each arrival brings, everything that can be tried being tried at once."""
    pairing = Pairing(contexts, generations, how)
    brought = []
    for one in arrivals:
        assert not pairing.complete
        pairing.came(one)
        brought.append(list(iter(pairing.take, None)))
        for pair in brought[-1]:
            for each in pair:
                each.proved = True
    assert pairing.complete == bool(contexts and generations)
    return brought


@given(st.integers(1, 7), st.integers(1, 7), hows, st.data())
def test_in_whatever_order_they_come_everybody_is_proved_once_both_sides_are_there(contexts, generations, how, data):
    arrivals = data.draw(st.permutations([*rows("ctx", contexts), *rows("gen", generations)]))
    brought = played(arrivals, contexts, generations, how)
    assert names(pair for some in brought for pair in some) == {one.name for one in arrivals}
    assert all(context.role == CONTEXT and generation.role == GENERATION for some in brought for context, generation in some)
    # nobody waits for anybody who is not there yet
    for at, some in enumerate(brought):
        assert names(some) <= {one.name for one in arrivals[: at + 1]}


@given(st.integers(2, 9), st.integers(2, 9), st.data())
def test_of_a_cover_one_pair_is_left_for_the_last_to_come(contexts, generations, data):
    arrivals = data.draw(st.permutations([*rows("ctx", contexts), *rows("gen", generations)]))
    assert len(played(arrivals, contexts, generations, "cover")[-1]) == 1


def test_a_newcomer_alone_is_tried_with_one_that_is_proved():
    (c0, c1), (g0, g1) = rows("ctx", 2), rows("gen", 2)
    pairing = Pairing(2, 2, "cover")
    for one in (c0, c1, g0):
        pairing.came(one)
    assert pairing.take() == (c0, g0)
    assert pairing.take() == (c1, g0)
    c1.proved = g0.proved = True
    pairing.came(g1)
    assert pairing.take() == (c1, g1)


def test_blamed_is_who_is_in_all_failing_pairs():
    (c0, c1), (g0, g1) = rows("ctx", 2), rows("gen", 2)
    every = pairs([c0, c1], [g0, g1], "pairs")
    assert blamed(every, [(c0, g0), (c0, g1)]) is c0
    assert blamed(every, [(c0, g1), (c1, g1)]) is g1
    assert blamed([(c0, g0)], [(c0, g0)]) is g0
