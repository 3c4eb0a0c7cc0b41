"""docs/watching.md says of every key, key stroke, state and metric what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typing_extensions import is_typeddict

from disagg_launch.router.metrics import Metrics
from disagg_launch.runtime import exposition
from disagg_launch.watch import shape
from disagg_launch.watch.keys import SORTS

PAGE = (Path(__file__).parents[3] / "docs" / "watching.md").read_text()
SHAPES = [one for one in vars(shape).values() if is_typeddict(one)]


@pytest.mark.parametrize("one", SHAPES, ids=lambda one: one.__name__)
def test_every_key_of_a_snapshot_is_there(one: type) -> None:
    assert [key for key in one.__annotations__ if f"`{key}`" not in PAGE] == []


def test_every_metric_of_the_gateway_is_there() -> None:
    status = {"name": "n", "digest": "d", "job": "", "state": "ready", "instances": [], "resting": [], "degraded": {}}
    names = re.findall(r"# TYPE (\w+)", exposition.page(status, {}, 1.0, 1.0))
    assert names and [name for name in names if f"`{name}" not in PAGE] == []


def test_every_metric_that_is_named_is_there() -> None:
    metrics = Metrics()
    metrics.first_token_at = 1.0
    status = {"name": "n", "digest": "d", "job": "", "state": "ready", "instances": [], "resting": [], "degraded": {}}
    there = set(re.findall(r"# TYPE (\w+)", exposition.page(status, {}, 1.0, 1.0) + metrics.text([])))
    of_router = set(re.findall(r"`(\w+)[{`]", PAGE[PAGE.index("The router's are those") :]))
    assert of_router and of_router <= there
    assert set(re.findall(r"`(disagg_\w+?)[{`]", PAGE)) <= there


def test_every_sort_is_there() -> None:
    [line] = re.findall(r"^\| s \| (.*) \|$", PAGE, re.M)
    assert [name for name in SORTS if name not in line and name != "since"] == []


def test_every_screen_was_taken() -> None:
    screens = re.findall(r"<!-- screen: (\S+) -->\n\n((?:    .*\n|\n)+)", PAGE)
    assert [name for name, _ in screens] == ["top", "top-300", "plain", "trace"]
    assert all(len(text.splitlines()) > 3 for _, text in screens)
    assert max(len(line) - 4 for name, text in screens if name.startswith("top") for line in text.splitlines()) <= 80
