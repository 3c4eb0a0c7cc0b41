"""launch.json: late-bound texts keep their parts, and nothing a user typed becomes a place holder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch import launch
from disagg_launch.errors import BadInput
from disagg_launch.latebound import json_text, yaml_text
from disagg_launch.launch import Launch, Ref, Router, Start, Worker

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
refs = st.builds(Ref, st.sampled_from(launch.WHATS), st.sampled_from(["", "ctx0", "router"]))
texts = st.one_of(words, st.lists(st.one_of(words, refs), min_size=1, max_size=4).map(tuple))


@given(st.lists(texts, min_size=1, max_size=4).map(tuple), st.dictionaries(words, texts, max_size=3))
def test_launch_comes_back_without_loss(argv: tuple[launch.Text, ...], environ: dict[str, launch.Text]) -> None:
    made = Launch(
        "abc",
        "local",
        (Start("ctx0", 0, 1, ("ctx0",), ("bash", "steps/ctx0.sh")),),
        (Worker("ctx0", argv, environ, unset=("UCX_TLS", "PMI*"), in_process="a:b"),),
        Router(argv, environ),
        {"configs/router.yaml": argv[0]},
    )
    assert launch.from_json(launch.to_json(made)) == made


@given(words, words)
def test_text_that_looks_like_a_place_holder_stays_text(before: str, after: str) -> None:
    text = (before + "{host}", Ref("host"), "@{port}" + after)
    assert launch.bind(text, lambda ref: "H") == before + "{host}H@{port}" + after


@given(st.dictionaries(words, st.one_of(words, st.integers(), st.booleans(), refs), max_size=4))
def test_yaml_with_refs_is_the_yaml_of_the_bound_values(value: dict[str, object]) -> None:
    import yaml

    bound = launch.bind(yaml_text(value), lambda ref: "h1:80")
    expected = {k: "h1:80" if isinstance(v, Ref) else v for k, v in value.items()}
    assert yaml.safe_load(bound) == expected


@pytest.mark.parametrize(
    "value", [{"a": "x<<late-bound 0>>"}, {"<<late-bound 1>>": 1}, {"a": ["<<late-bound 0>>", (Ref("host"), "<<late-bound 0>>")]}]
)
def test_a_text_that_is_the_mark_itself_is_refused(value: dict[str, object]) -> None:
    for write in (yaml_text, json_text):
        with pytest.raises(BadInput, match="write it in another way"):
            write({**value, "port": Ref("port")})
