"""The `command` engine: a word stays one argument, names in braces become late-bound, unknown names are refused."""

import pytest

from disagg_launch.engines.command import parse
from disagg_launch.errors import BadInput
from disagg_launch.launch import Ref

KNOWN = {"ctx0", "gen0", "router"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$(reboot); `x`", "$(reboot); `x`"),
        ("{{kept}}", "{kept}"),
        ("{port}", (Ref("port"),)),
        ("--peer={gen0.url}/x", ("--peer=", Ref("url", "gen0"), "/x")),
        ("{model}", "my model"),
    ],
)
def test_words(word: str, expected: object) -> None:
    assert parse(word, KNOWN, "command", {"model": "my model"}) == expected


@pytest.mark.parametrize("word", ["{prot}", "{ctx9.port}", "{port!r}", "{port:>5}", "{", "{}", "{0}"])
def test_a_word_that_asks_for_something_unknown_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match="command"):
        parse(word, KNOWN, "command")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(BadInput, match=r"did you mean \{port\}"):
        parse("{prot}", KNOWN, "command")
