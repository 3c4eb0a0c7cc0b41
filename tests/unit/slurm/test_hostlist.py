"""The host list grammar by itself; tests/slurm holds it against Slurm's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disagg_launch.errors import BadInput
from disagg_launch.hostlist import compress, expand

NAMES = st.from_regex(r"[a-z]{0,3}[0-9]{0,4}(-[a-z]?[0-9]{1,3})?", fullmatch=True).filter(bool)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("login", ("login",)),
        ("n[1-3,7]", ("n1", "n2", "n3", "n7")),
        ("gpu[08-10],login", ("gpu08", "gpu09", "gpu10", "login")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
        ("n[99-101]", ("n99", "n100", "n101")),
        ("b,a,b", ("b", "a", "b")),
    ],
)
def test_expand(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize("text", ["n[", "n]", "n[]", "n[3-1]", "n[a-b]", "n[1-2]x", "n[1-70000]", "n[1,,2]", "n[[1]]", "n[1-2", "n[+1]"])
def test_expand_refuses(text: str) -> None:
    with pytest.raises(BadInput, match="host list"):
        expand(text)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["n1", "n2", "n3", "n5"], "n[1-3,5]"),
        (["n09", "n10"], "n[09-10]"),
        (["n9", "n10", "n011"], "n[9-10,011]"),
        (["n1", "m1", "n2"], "n1,m1,n2"),
        (["n2", "n1"], "n[2,1]"),
        (["login"], "login"),
    ],
)
def test_compress(names: list[str], text: str) -> None:
    assert compress(names) == text


@given(st.lists(NAMES))
def test_compress_loses_nothing(names: list[str]) -> None:
    assert expand(compress(names)) == tuple(names)
