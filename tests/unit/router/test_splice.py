"""Splicing token ids is never told apart from decoding and encoding them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from disagg_launch.router import splice
from disagg_launch.router.splice import Ids, as_ids, dumps, loads

KEY = "prompt_token_ids"
# texts that look like the key, with every quoting accident around them
texts = st.one_of(
    st.text(),
    st.sampled_from([KEY, f'"{KEY}"', f'"{KEY}":[1,2]', f'\\"{KEY}\\":[1]', f'x"{KEY}', f'{KEY}" : [3]', "\\", '\\"', "[1]", "]", "}"]),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(texts, st.just(KEY)), inner, max_size=4), st.lists(st.integers(0, 10**6))
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.one_of(texts, st.just(KEY)), st.one_of(values, st.lists(st.integers(0, 10**6))), max_size=6)


@pytest.fixture(autouse=True)
def always_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "SMALL", 0)


@given(bodies, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")]), st.booleans())
@example({KEY: [1, 2, 3], "text": f'"{KEY}":[9]'}, (",", ":"), True)
@example({"a": {KEY: [1]}}, (",", ":"), True)
@example({f'a"{KEY}': [1], KEY: []}, (",", ":"), False)
def test_spliced_equals_decoded(body: dict[str, Any], separators: tuple[str, str], ascii_only: bool) -> None:
    raw = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(raw.decode("utf-8"))
        json.dumps(wanted, ensure_ascii=False).encode()
    except UnicodeError:
        return  # half a surrogate pair is no text
    assert json.loads(dumps(loads(raw, KEY))) == wanted


def test_ids_are_cut_out_and_not_decoded() -> None:
    raw = b'{"a": 1, "prompt_token_ids": [ 1, 22,333 ], "b": [1]}'
    assert loads(raw, KEY)[KEY] == Ids(b"[ 1, 22,333 ]")
    assert dumps(loads(raw, KEY)) == b'{"a":1,"prompt_token_ids":[ 1, 22,333 ],"b":[1]}'


@pytest.mark.parametrize("raw", [b'{"prompt_token_ids":[1,"a]"]}', b'{"prompt_token_ids":[1.5]}', b'{"prompt_token_ids":[[1],[2]]}'])
def test_other_lists_are_decoded(raw: bytes) -> None:
    assert loads(raw, KEY)[KEY] == json.loads(raw)[KEY]


def test_the_last_of_two_equal_keys_wins_however_it_is_written() -> None:
    assert loads(b'{"prompt_token_ids":[1],"\\u0070rompt_token_ids":"x"}', KEY)[KEY] == "x"
    assert loads(b'{"\\u0070rompt_token_ids":"x","prompt_token_ids":[1]}', KEY)[KEY] == Ids(b"[1]")
    assert loads(b'{"prompt_token_ids":[1],"prompt_token_ids":[2]}', KEY)[KEY] == [2]


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"{", b'{"prompt_token_ids":[1}', b'{"prompt_token_ids":[1]', b"\xff"])
def test_no_object_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        loads(raw, KEY)


@given(st.lists(st.integers(0, 10**6)), st.lists(st.integers(0, 10**6)))
def test_ids_grow(ids: list[int], more: list[int]) -> None:
    grown = Ids(json.dumps(ids).encode()).plus(more)
    assert json.loads(grown.raw) == ids + more and len(grown) == len(ids + more)
    assert as_ids(ids) == Ids(json.dumps(ids, separators=(",", ":")).encode()) and as_ids(["a"]) is None and as_ids("a") is None
