"""The run folder: all of it is written or nothing, and what was used stays."""

from __future__ import annotations

import os
import pathlib
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from disagg_launch import cli, render
from disagg_launch.commands import run as runs
from disagg_launch.errors import BadInput
from disagg_launch.files import File

NAMED: Any = types.SimpleNamespace(name="small")
FILES = (File("plan.json", "{}"), File("steps/ctx0.sh", "true\n", 0o755))


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_was_only_rendered_is_replaced(here: pathlib.Path) -> None:
    for text in ("old", "new"):
        assert runs.written(NAMED, (*FILES, File("spec.yaml", text)), None) == here / "runs/small"
    assert (here / "runs/latest/spec.yaml").read_text() == "new"
    assert (here / "runs/small/steps/ctx0.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mark", ["state", "job.json"])
def test_what_was_used_stays(here: pathlib.Path, mark: str) -> None:
    folder = runs.written(NAMED, FILES, None)
    (folder / mark).mkdir()
    assert runs.written(NAMED, FILES, None) == here / "runs/small-2"
    with pytest.raises(BadInput, match="was used; name another with --run"):
        runs.written(NAMED, FILES, folder)
    assert (folder / mark).exists()


def test_two_that_begin_at_once_get_folders_of_their_own(here: pathlib.Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: runs.written(NAMED, FILES, None, begins=True), range(8)))
    assert len(set(folders)) == 8
    assert all((folder / "state").stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_nothing_half_written_is_left(here: pathlib.Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be written \(.*logs: File exists\); name another folder with --run"):
        runs.written(NAMED, (*FILES, File("logs", "in the way")), None)
    assert list((here / "runs").iterdir()) == []
    with pytest.raises(FileExistsError):
        render.write((*FILES, File("plan.json/x", "")), here / "other")
    assert sorted(path.name for path in here.iterdir()) == ["runs"]


def test_a_place_that_cannot_be_written_is_named(here: pathlib.Path) -> None:
    (here / "runs").write_text("no folder")
    with pytest.raises(BadInput, match=r"runs/small: cannot be written \(.*runs: File exists\)"):
        runs.written(NAMED, FILES, None)


@pytest.mark.parametrize("words", [
    "down", "status", "top --once", "explain", "trace", "logs", "logs gen0", "scale gen=+1", "restart gen0", "remove gen0",
    "autoscale record", "status elsewhere", "upgrade elsewhere spec.yaml",
])  # fmt: skip
def test_a_run_that_is_not_there_is_said_in_the_same_words(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words.split())
    where = "elsewhere" if "elsewhere" in words else "runs/latest"
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"disagg-launch: {where}: found no such folder; needed: a run folder, which ")


def test_the_catalogue_of_causes_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["explain", "--table"])
    assert (left.value.code, "DC19" in capsys.readouterr().out) == (0, True)


def test_up_outside_of_an_allocation_leaves_nothing(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as left:
        cli.main(["up", str(pathlib.Path(__file__).parents[2] / "examples/slurm.yaml")])
    assert (left.value.code, "salloc" in capsys.readouterr().err) == (4, True)
    assert list(here.iterdir()) == []
