"""The documentation's smallest specs are whole, and become the commands printed below them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from engine_view import EXAMPLES, ROOT, planned, words, worker

PAGES = sorted((ROOT / "docs/engines").glob("*.md"))


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "README.md"], ids=lambda one: one.stem)
def test_smallest_spec(page: Path) -> None:
    (spec,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (printed,) = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    topology, plan = planned(spec)
    assert [shlex.join(words(worker(topology, plan, one.name).argv)) for one in plan.instances] == printed.splitlines()


def test_the_table_of_the_guides_features_names_what_exists() -> None:
    text = (ROOT / "docs/engines/README.md").read_text()
    tests = "\n".join(one.read_text() for one in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)", text):
        assert f"def {name}(" in tests
    named = set(re.findall(r"\| ([a-z-]+\.yaml) \|", text))
    assert named == {one.name for one in (EXAMPLES / "seed").glob("*.yaml")}
