"""The table of forms and places in the documentation is what the code does: refused at a line of the file, or rendered; its tests exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_view import EXAMPLES, ROOT, planned

from disagg_launch import render
from disagg_launch.errors import BadInput

PAGE = (ROOT / "docs/engines/README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\.yaml \|.*\|$", PAGE.split("every place")[1], re.M)
]
# column of the table -> backend and slurm.mode
PLACES = {
    2: (("local", ""),),
    3: (("mpirun", ""),),
    4: (("slurm", "step-per-instance"),),
    5: (("slurm", "single-srun"), ("slurm", "single-mpirun")),
}
WHY = {
    "llmapi-launch": "engine.launch: llmapi-launch needs an MPI world of its own for each instance",
    "mpi-worker": "engine.launch: mpi-worker needs all ranks in one MPI world",
    "Ray": "engine: `ray symmetric-run` (engine.rendezvous: ray) tells nodes apart by their machines' addresses",
}


def files(path: Path, backend: str, mode: str) -> Any:
    """What an example is rendered to in a place."""
    spec = yaml.safe_load(path.read_text())
    if mode:
        spec["slurm"] = {**(spec.get("slurm") or {}), "mode": mode}
    return render.render(*planned(yaml.safe_dump(spec)), backend, "python3")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
@pytest.mark.parametrize("column", PLACES)
def test_place(row: list[str], column: int) -> None:
    for backend, mode in PLACES[column]:
        if row[column] != "refused":
            assert files(EXAMPLES / row[1], backend, mode)
            continue
        with pytest.raises(BadInput) as said:
            files(EXAMPLES / row[1], backend, mode)
        (why,) = [text for word, text in WHY.items() if word in row[0]]
        assert re.match(r"t\.yaml:\d+:\d+: " + re.escape(why), str(said.value))


def test_every_example_has_a_row_and_every_named_test_exists() -> None:
    forms = {row[1] for row in ROWS}
    there = {f"{path.parent.name}/{path.name}" for path in [*EXAMPLES.glob("seed/*.yaml"), *EXAMPLES.glob("engines/*.yaml")]}
    # one shows keys that go through to the engine, in a form that has a row
    assert forms == there - {"engines/trtllm-wide.yaml"}
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    cells = [cell for row in ROWS for cell in row[2:]]
    assert all(cell in ("yes", "refused") or re.fullmatch(r"`test_\w+`(, `test_\w+`)*", cell) for cell in cells)
    for name in {name for cell in cells for name in re.findall(r"`(test_\w+)`", cell)}:
        assert f"def {name}(" in tests
