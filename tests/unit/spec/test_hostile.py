"""Whatever a file holds, the answer is a Spec or complaints at places that lie in the file; and it comes soon."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch import spec
from disagg_launch.spec.model import Topology
from disagg_launch.spec.nodes import DEEPEST
from disagg_launch.spec.source import MOST_CHARACTERS, parse

EXAMPLES = sorted((pathlib.Path(__file__).parents[3] / "examples").glob("*.yaml"))
KEYS = sorted(Topology.model_fields) + ["tensor_parallel_size", "num_instances", "urls", "router", "nodes", "zonk", "type", "<<"]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a:1", "trtllm", "ctx0", "1:00:00"])
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | scalars, inner, max_size=5)
)
topologies = st.dictionaries(st.sampled_from(KEYS), trees, max_size=8)


def answer(text: str) -> spec.Spec | None:
    """The Spec, or None after complaints whose places have been looked at."""
    try:
        return spec.loads(text, "t.yaml")
    except spec.BadTopology as bad:
        lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)  # YAML's line breaks
        assert bad.complaints
        assert list(bad.complaints) == sorted(bad.complaints)
        for one in bad.complaints:
            assert 1 <= one.line <= len(lines) + 1
            assert 1 <= one.column <= 1 + max(map(len, lines))
            assert "\n" not in str(one)
        return None


@settings(deadline=None)
@given(topologies)
def test_any_tree_is_a_spec_or_is_placed(tree):
    answer(yaml.safe_dump(tree, allow_unicode=True))


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!<|>?#'\",% \n\t0123456789.~éè\u2028", max_size=80))
def test_any_text_is_a_spec_or_is_placed(text):
    answer(text)


@settings(deadline=None, max_examples=50)
@given(path=st.sampled_from(EXAMPLES), data=st.data())
def test_a_damaged_example_is_a_spec_or_is_placed(path, data):
    text = path.read_text(encoding="utf-8")
    at = data.draw(st.integers(0, len(text)))
    answer(text[:at] + data.draw(st.text(max_size=4)) + text[at + data.draw(st.integers(0, 20)) :])


values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)  # what an environment can hold
sections = st.fixed_dictionaries(
    {
        "num_instances": st.integers(1, 9),
        "tensor_parallel_size": st.sampled_from([1, 2, 4, 8]),
        "pipeline_parallel_size": st.integers(1, 4),
    },
    optional={
        "max_batch_size": st.integers(1, 512),
        "env": st.dictionaries(st.from_regex(r"[A-Z]{1,8}", fullmatch=True), values | st.integers()),
    },
)


@settings(deadline=None)
@given(context=sections, generation=sections, nodes=st.none() | st.integers(1, 100))
def test_a_good_topology_comes_back_as_written(context, generation, nodes):
    tree = {
        "model": "m",
        "engine": {"name": "reference"},
        "context_servers": context,
        "generation_servers": generation,
        "cluster": {"nodes": nodes},
    }
    got = answer(yaml.safe_dump(tree))
    assert got is not None
    assert got.cluster.nodes == nodes
    for role, section in (("context", context), ("generation", generation)):
        assert got.section(role).size == section["tensor_parallel_size"] * section["pipeline_parallel_size"]
        assert got.section(role).num_instances == section["num_instances"]
        assert got.section(role).env == {name: str(value) for name, value in section.get("env", {}).items()}
        assert got.section(role).engine_keys == {k: v for k, v in section.items() if k == "max_batch_size"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases unfolded"),
        (MERGES, "more than"),
        ("a: &a [*a]\n", f"more than {DEEPEST} levels"),
        ("a: &a {b: *a}\n", f"more than {DEEPEST} levels"),
        ("a: &a {<<: *a}\n", "`<<`"),
        ("a: " + "[" * 200_000, f"nested more than {DEEPEST} levels"),
        ("a: " + "[" * 50 + "]" * 50, f"more than {DEEPEST} levels"),
        ("- " * 100_000, f"nested more than {DEEPEST} levels"),
        ("a: " + "{b: " * 50_000, f"nested more than {DEEPEST} levels"),
        ("port: " + "9" * 10_000, "cannot be read as int"),
        ("port: 0x" + "f" * 10_000, "cannot be read as int"),
        ("a: " + "x" * MOST_CHARACTERS, "allowed: 262144"),
        ("model: !!binary aGk=\n", "found the tag"),
        ("model: !!python/name:os.system\n", "found the tag"),
        ('"\\e[31mred": 1\nport: x\n', "port: found 'x'"),
        ("a: b\0c\n", "not YAML"),
    ],
    ids=lambda value: value[:16],
)
def test_hostile_files_are_refused(text, said):
    with pytest.raises(spec.BadTopology) as caught:
        spec.loads(text, "t.yaml")
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 5_000


def test_every_value_has_its_place():
    text = "a:\n  - b: 1\n    c: [2, {d: 3}]\n"
    source, wrong = parse(text, "t.yaml")
    assert wrong == []
    assert source.places[("a", 0, "c", 1, "d")] == (3, 16, "")
    assert source.keys[("a", 0, "c")] == (3, 5, "")
    assert source.at(("a", 0, "c", 7)) == (3, 8, "")
    assert source.value("a", 0, "c", 1, "d") == 3
    assert source.value("a", 9, default="none") == "none"
