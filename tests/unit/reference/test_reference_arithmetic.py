"""Pure parts: who owns what, how a token is drawn, and what is read from a GGUF file."""

from __future__ import annotations

import pathlib
import struct
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.errors import BadInput
from disagg_launch.reference import models, weights
from disagg_launch.reference.gguf import Gguf
from disagg_launch.reference.grid import place, share
from disagg_launch.reference.sampling import Sampling, choose

SHAPE = models.RANDOM


@given(st.integers(0, 50), st.integers(1, 12))
def test_shares_are_contiguous_complete_and_nearly_equal(total: int, parts: int) -> None:
    shares = [share(total, parts, index) for index in range(parts)]
    assert [n for one in shares for n in one] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.data())
def test_every_layer_head_and_row_has_an_owner(groups: int, repeat: int, layers: int, data: st.DataObject) -> None:
    shape = replace(SHAPE, groups=groups, repeat=repeat, layers=layers)
    tp, pp = data.draw(st.integers(1, groups * repeat)), data.draw(st.integers(1, layers))
    places = [place(shape, tp, pp, rank) for rank in range(tp * pp)]
    heads = Counter(
        (layer, group, query)
        for one in places
        for layer in range(one.rect.layer0, one.rect.layer1)
        for group in range(one.rect.head0, one.rect.head1)
        for query in one.query
    )
    assert set(heads.values()) == {1} and len(heads) == layers * groups * repeat
    stage = places[:tp]
    assert sum(len(one.hidden) for one in stage) == shape.hidden and sum(len(one.vocab) for one in stage) == shape.vocab
    assert [one.first for one in places[::tp]] == [True] + [False] * (pp - 1)


@pytest.mark.parametrize(("tp", "pp", "words"), [(9, 1, "8 heads"), (1, 5, "4 layers")])
def test_too_many_ranks_are_refused(tp: int, pp: int, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        place(SHAPE, tp, pp, 0)


LOGITS = np.log(np.array([0.1, 0.5, 0.3, 0.06, 0.04], np.float32))


def drawn(how: Sampling, count: int = 4000) -> dict[int, float]:
    """The share of each token among many draws."""
    counts = Counter(choose(LOGITS, how, number) for number in range(count))
    return {token: counts[token] / count for token in sorted(counts)}


def test_greedy_takes_the_likeliest() -> None:
    assert choose(LOGITS, Sampling(), 0) == 1


@pytest.mark.parametrize("temperature", [1e-306, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    how = Sampling(temperature=temperature, top_p=0.9, top_k=3)
    assert choose(LOGITS, how, 0) == choose(LOGITS, Sampling(temperature=temperature), 0) == LOGITS.argmax()


def test_draws_follow_the_distribution() -> None:
    assert drawn(Sampling(1.0, seed=3)) == pytest.approx({0: 0.1, 1: 0.5, 2: 0.3, 3: 0.06, 4: 0.04}, abs=0.03)
    assert drawn(Sampling(0.5, seed=3))[1] == pytest.approx(0.25 / (0.01 + 0.25 + 0.09 + 0.0036 + 0.0016), abs=0.03)


def test_top_p_and_top_k_leave_the_likeliest_only() -> None:
    assert set(drawn(Sampling(1.0, top_p=0.8, seed=1))) == {1, 2}
    assert set(drawn(Sampling(1.0, top_p=0.81, seed=1))) == {0, 1, 2}
    assert set(drawn(Sampling(1.0, top_p=1e-9, seed=1))) == {1}
    assert set(drawn(Sampling(1.0, top_k=3, seed=1))) == {0, 1, 2}


def test_a_draw_depends_on_seed_and_number_only() -> None:
    draws = [[choose(LOGITS, Sampling(1.0, seed=seed), number) for number in range(50)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1


def text(value: str) -> bytes:
    """A string as GGUF writes it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(tensors: dict[str, tuple[tuple[int, ...], int, bytes]], meta: bytes = b"", pairs: int = 0, version: int = 3) -> bytes:
    """A GGUF file: name -> (NumPy shape, type, raw bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), pairs) + meta
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(body))
        body += raw + b"\0" * (-len(raw) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def test_gguf_tensors_and_metadata(tmp_path: pathlib.Path) -> None:
    halves = np.float16([0.5, -2.0]).tobytes()
    q4_1 = halves + bytes(range(16, 32))  # low halves 0..15, high halves all 1
    q8_0 = halves[:2] + bytes(range(32))
    meta = text("name") + struct.pack("<I", 8) + text("tiny") + text("list") + struct.pack("<IIQ3i", 9, 5, 3, 1, -2, 3)
    meta += text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("é")
    path = tmp_path / "tiny.gguf"
    path.write_bytes(
        gguf(
            {
                "f32": ((2, 3), 0, np.arange(6, dtype=np.float32).tobytes()),
                "f16": ((2,), 1, halves),
                "q4_1": ((1, 32), 3, q4_1),
                "q8_0": ((32,), 8, q8_0),
                "odd": ((1,), 30, b"\0"),
            },
            meta,
            3,
        )
    )
    file = Gguf(path)
    assert file.meta == {"name": "tiny", "list": [1, -2, 3], "words": ["a", "é"]}
    assert file.tensor("f32").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.tensor("f16").tolist() == [0.5, -2.0]
    assert file.tensor("q4_1").tolist() == [[n / 2 - 2 for n in range(16)] + [-1.5] * 16]
    assert file.tensor("q8_0").tolist() == [n / 2 for n in range(32)]
    with pytest.raises(BadInput, match="type 30"):
        file.tensor("odd")


@pytest.mark.parametrize(("raw", "words"), [(b"PK\3\4" + b"\0" * 60, "not a GGUF"), (gguf({}, version=1), "version 1")])
def test_other_files_are_refused(tmp_path: pathlib.Path, raw: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(BadInput, match=words):
        Gguf(path)


def test_a_flat_file_gives_back_what_was_written(tmp_path: pathlib.Path) -> None:
    tensors = dict(models.load("random:1,layers=1").tensors)
    path = tmp_path / "weights.f32"
    weights.write_flat(path, tensors.items())
    back = weights.read_flat(path)
    assert set(back) == set(tensors) and all(np.array_equal(back[name], tensors[name]) for name in tensors)
    assert not back["embed"].flags.writeable
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["weights.f32", "weights.json"]


def test_random_models_are_fixed_by_name_and_of_the_shape_asked_for() -> None:
    first, again, other = (models.load(name) for name in ("random:5", "random:5", "random:6"))
    assert np.array_equal(first.tensors["embed"], again.tensors["embed"])
    assert not np.array_equal(first.tensors["embed"], other.tensors["embed"])
    odd = models.load("random:1,heads=9,kv_heads=3,layers=5,head_size=8,hidden=31,context=64").shape
    assert (odd.groups, odd.repeat, odd.layers, odd.head_size, odd.width, odd.hidden, odd.context) == (3, 3, 5, 8, 72, 31, 64)


@pytest.mark.parametrize("name", ["random:", "random:x", "random:1,heads=9", "random:1,speed=3", "random:1,layers=0", "random:-1", "other"])
def test_bad_model_names_say_what_is_possible(name: str) -> None:
    with pytest.raises(BadInput, match=r"random:SEED|every number"):
        models.load(name)
