"""The documentation's smallest specs are whole, and become the commands printed below them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from engine_view import EXAMPLES, ROOT, planned, words, worker

from disagg_launch.cli import COMMANDS
from disagg_launch.engines import trtllm
from disagg_launch.spec.schema import schema_text

PAGES = sorted((ROOT / "docs/engines").glob("*.md"))


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != "README.md"], ids=lambda one: one.stem)
def test_smallest_spec(page: Path) -> None:
    (spec,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (printed,) = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    topology, plan = planned(spec)
    assert [shlex.join(words(worker(topology, plan, one.name).argv)) for one in plan.instances] == printed.splitlines()


def table(head: str) -> list[list[str]]:
    """The cells of the table in the engines' page whose first line begins with `head`."""
    text = (ROOT / "docs/engines/README.md").read_text()
    rows = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_of_the_guides_features_names_what_exists() -> None:
    rows = table("| the guide's feature |")
    tests = "\n".join(one.read_text() for one in (ROOT / "tests").rglob("test_*.py"))
    for cells in (*rows, *table("| the environment |")):
        names = re.findall(r"`(test_\w+)", cells[-1])
        assert names, cells
        assert all(f"def {name}(" in tests for name in names), cells
    assert {cells[2] for cells in rows} - {"-"} == {one.name for one in (EXAMPLES / "seed").glob("*.yaml")}


def test_the_table_of_the_guides_features_names_keys_and_commands_that_exist() -> None:
    keys = {name for text in (schema_text(),) for name in re.findall(r'"([a-z_]+)": \{', text)} | trtllm.KNOWN_KEYS
    for cells in table("| the guide's feature |"):
        for word in re.findall(r"`([^`]+)`", cells[1]):
            if word.startswith("disagg-launch "):
                assert word.split()[1] in COMMANDS, word
            elif re.match(r"[a-z_]+(\.[a-z_]+)*(:|$)", word) and not word.startswith("http:"):
                assert set(word.split(":")[0].split(".")) <= keys, word
