"""Policies as pure functions over rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.router.policies import POLICIES, Ask, Memory, blocks_of


@dataclass
class Row:
    url: str
    active: int = 0
    active_tokens: int = 0


def rows(*active: int) -> list[Row]:
    return [Row(f"w{i}:1", count) for i, count in enumerate(active)]


@pytest.mark.parametrize("name", POLICIES)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 2**40))
def test_every_policy_chooses_one_of_the_rows_and_nothing_else_changes(name: str, active: list[int], number: int) -> None:
    table, memory = rows(*active), Memory()
    before = [vars(row).copy() for row in table]
    ask = Ask(number, 10, "s", blocks_of(b"x" * 100, 10))
    assert POLICIES[name](table, ask, memory) in table
    assert POLICIES[name](table, ask, memory) is POLICIES[name](table, ask, memory)
    assert [vars(row) for row in table] == before and not memory.sessions and not memory.blocks


def test_round_robin_takes_turns() -> None:
    table = rows(5, 0, 9)
    assert [POLICIES["round_robin"](table, Ask(i), Memory()).url for i in range(5)] == ["w0:1", "w1:1", "w2:1", "w0:1", "w1:1"]


def test_load_balancing_takes_the_least_busy_and_turns_among_equals() -> None:
    assert POLICIES["load_balancing"](rows(3, 1, 2), Ask(0), Memory()).url == "w1:1"
    assert Counter(POLICIES["load_balancing"](rows(1, 1, 2), Ask(i), Memory()).url for i in range(300)).keys() == {"w0:1", "w1:1"}
    table = [Row("a:1", 1, 1000), Row("b:1", 9, 10)]
    assert POLICIES["load_balancing"](table, Ask(0), Memory({"use_tokens": True})).url == "b:1"


def test_balancing_by_tokens_as_upstream_tests_it() -> None:
    table, memory, chosen = [Row("a:1"), Row("b:1")], Memory({"use_tokens": True}), []
    for number, length in enumerate((100, 500, 10, 400, 2000, 100)):
        row = POLICIES["load_balancing"](table, Ask(number, length), memory)
        row.active_tokens += length
        chosen.append(length)
    assert abs(table[0].active_tokens - table[1].active_tokens) <= 2000 and sum(r.active_tokens for r in table) == 3110


def test_power_of_two_is_near_the_best_and_far_from_blind() -> None:
    table = rows(*([0] * 16))
    for number in range(1600):
        POLICIES["power_of_two"](table, Ask(number), Memory()).active += 1
    assert max(r.active for r in table) - min(r.active for r in table) <= 12


def test_kv_cache_aware_follows_the_prefix_until_the_worker_is_busy() -> None:
    memory, choose = Memory({"max_batch_size": 10}), POLICIES["kv_cache_aware"]
    ask = Ask(0, 100, "", blocks_of(b"system prompt " * 20, 16))
    memory.saw("w1:1", ask)
    longer = Ask(3, 100, "", blocks_of(b"system prompt " * 20 + b"and more of it here", 16))
    assert choose(rows(0, 0, 0), longer, memory).url == "w1:1"
    assert choose(rows(0, 9, 0), longer, memory).url == "w1:1"
    assert choose(rows(0, 11, 0), longer, memory).url != "w1:1"
    memory.forget("w1:1")
    assert choose(rows(0, 1, 0), longer, memory).url != "w1:1"


def test_conversations_stay_and_new_ones_follow_their_beginning() -> None:
    memory, choose = Memory(), POLICIES["conversation"]
    blocks = blocks_of(b"a" * 400, 100)
    memory.saw("w2:1", Ask(0, 0, "chat-1", blocks))
    assert choose(rows(0, 0, 9), Ask(7, 0, "chat-1", ()), memory).url == "w2:1"
    assert choose(rows(0, 0, 9), Ask(7, 0, "chat-2", blocks), memory).url == "w2:1"
    assert choose(rows(0, 0, 9), Ask(7, 0, "chat-2", blocks_of(b"a" * 100 + b"b" * 300, 100)), memory).url != "w2:1"
    assert choose(rows(1, 0), Ask(7, 0, "chat-1", ()), memory).url == "w1:1"  # its worker is gone


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory = Memory(max_sessions=3, max_blocks=4)
    for i in range(10):
        memory.saw("w:1", Ask(i, 0, f"s{i}", (i,)))
    assert list(memory.sessions) == ["s7", "s8", "s9"] and [key[1] for key in memory.blocks] == [6, 7, 8, 9]


def test_blocks_are_chained() -> None:
    one, two = blocks_of(b"aaaabbbbcc", 4), blocks_of(b"xaaabbbbcc", 4)
    assert len(one) == 2 and not set(one) & set(two) and blocks_of(b"aaaacccc", 4)[0] == one[0]
