"""The `command` engine: a word stays one argument, names in braces become late-bound, unknown names are refused."""

import pytest

from disagg_launch import engines, place, render, spec
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
    assert parse(word, KNOWN, {"model": "my model"}) == expected


@pytest.mark.parametrize("word", ["{prot}", "{ctx9.port}", "{port!r}", "{port:>5}", "{", "{}", "{0}"])
def test_a_word_that_asks_for_something_unknown_is_refused(word: str) -> None:
    with pytest.raises(BadInput, match=r"found .*braces|allowed: .*port"):
        parse(word, KNOWN)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(BadInput, match=r"did you mean \{port\}"):
        parse("{prot}", KNOWN)


TOPOLOGY = """\
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1, command: [serve, "{gen9.url}"]}
engine: {name: command, command: [serve, "{prot}"]}
"""


def test_what_cannot_be_filled_in_is_told_at_its_place_before_anything_is_rendered() -> None:
    topology = spec.loads(TOPOLOGY, "t.yaml")
    plan = place.place(topology)
    found = [str(one) for one in engines.check(topology, plan)]
    places = ["t.yaml:3:42: engine.command[1]", "t.yaml:2:57: generation_servers.command[1]"]
    assert [line.partition(": found")[0] for line in found] == places
    with pytest.raises(BadInput, match=r"^t.yaml:3:42: engine.command\[1\]: found '{prot}'"):
        render.render(topology, plan, "local", "python3")


def test_a_front_doors_words_are_told_at_their_place() -> None:
    right = TOPOLOGY.replace("{prot}", "{port}").replace("{gen9.url}", "{ctx0.url}")
    topology = spec.loads(right + 'router: {name: command, command: [door, "{where}"]}\n', "t.yaml")
    with pytest.raises(BadInput, match=r"^t.yaml:4:41: router.command\[1\]: found '{where}'"):
        render.render(topology, place.place(topology), "local", "python3")
