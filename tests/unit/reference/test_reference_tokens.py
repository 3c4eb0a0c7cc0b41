"""Tokenizers and the growing text of an answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.reference.bpe import ByteLevel, Bytes, CharLevel, byte_letters, encode_with_specials, merge, words
from disagg_launch.reference.text import Text

LETTERS = byte_letters()
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or"]
TOKENS = ["<|end|>", *LETTERS.values(), *(text.replace(" ", "") for text in MERGES)]
BPE = ByteLevel(TOKENS, [3] + [1] * (len(TOKENS) - 1), MERGES, frozenset({0}))


def test_words_follow_gpt2_after_every_digit_was_cut_out() -> None:
    assert list(words("I'll pay 42 €!")) == ["I", "'ll", " pay", " ", "4", "2", " €!"]
    assert list(words("\n 3")) == ["\n ", "3"]
    assert list(words("a  b\r\n\n c")) == ["a", " ", " b", "\r\n\n", " c"]
    assert list(words("don't DON'T über 日本語 ½")) == ["don", "'t", " DON", "'", "T", " über", " 日本語", " ", "½"]
    assert list(words("x\x1c\u00a0\u3000y")) == ["x", "\x1c", "\u00a0", "\u3000", "y"]


@given(st.text())
def test_words_lose_nothing(text: str) -> None:
    assert "".join(words(text)) == text


def test_merges_go_by_rank_and_then_from_the_left() -> None:
    ranks = {("a", "b"): 1, ("b", "c"): 0, ("a", "a"): 2, ("aa", "a"): 3}
    assert merge("abc", ranks) == ["a", "bc"]
    assert merge("aaaa", ranks) == ["aa", "aa"]
    assert merge("aaaaa", ranks) == ["aa", "aaa"]
    assert merge("", ranks) == []


@given(st.text(alphabet="abc", max_size=12), st.permutations([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("c", "a"), ("a", "a")]))
def test_merge_equals_the_plain_method(text: str, order: list[tuple[str, str]]) -> None:
    ranks = {pair: rank for rank, pair in enumerate(order)}
    parts = list(text)
    while best := min(((ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in ranks), default=None):
        parts[best[1] : best[1] + 2] = ["".join(parts[best[1] : best[1] + 2])]
    assert merge(text, ranks) == parts


def test_a_long_word_is_merged_in_reasonable_work() -> None:
    assert len(merge("ab" * 50_000, {("a", "b"): 0, ("ab", "ab"): 1})) == 25_000


def test_byte_level_tokens_of_known_text() -> None:
    shown = [TOKENS[token] for token in BPE.encode("hello world")]
    assert shown == ["hello", "Ġwor", "l", "d"]


@given(st.text())
def test_byte_level_loses_nothing(text: str) -> None:
    expected = text.encode("utf-8", "replace")
    assert b"".join(map(BPE.piece, BPE.encode(text))) == expected


def test_control_tokens_count_only_where_they_are_asked_for() -> None:
    assert 0 not in BPE.encode("a<|end|>b")
    assert encode_with_specials(BPE, "a<|end|>b") == [*BPE.encode("a"), 0, *BPE.encode("b")]
    assert BPE.piece(0) == b""


def test_character_level_shows_what_it_does_not_know() -> None:
    tokenizer = CharLevel(["a", "b", "\n", "▁"], [("▁", "a"), ("▁a", "b")])
    assert tokenizer.encode("b ab\nx") == [5, 9, 6, 1]
    assert b"".join(map(tokenizer.piece, tokenizer.encode("b ab\nx"))).decode() == "b ab\n\u2047"


@given(st.text(min_size=1), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string_and_is_whole_otherwise(text: str, stops: list[str]) -> None:
    text = text.encode("utf-8", "replace").decode()
    growing = Text(Bytes(), stops)
    shown = ""
    for token in Bytes().encode(text):
        shown += growing.add(token)
        if growing.stopped:
            break
    shown += growing.finish()
    found = [text.find(stop) for stop in stops if stop in text]
    if not found:
        assert shown == text
    else:
        assert text.startswith(shown) and not any(stop in shown for stop in stops)
        assert growing.stopped and any(text.startswith(stop, len(shown)) for stop in stops)


def test_half_a_character_is_not_shown() -> None:
    growing = Text(Bytes())
    first, second = "é".encode()
    assert (growing.add(first), growing.add(second)) == ("", "é")
    growing.add(first)
    assert growing.finish() == "\ufffd"
