"""The command line: help without heavy imports, exit codes from the table, commands that exist."""

import importlib
import subprocess
import sys

import click
import pytest

from disagg_launch import cli
from disagg_launch.errors import BackendRefused, BadInput, DoesNotFit, NotReady, WorkerDied

HEAVY = {"pydantic", "jinja2", "yaml", "rich", "numpy", "uvicorn", "requests", "psutil", "mpi4py", "orjson"}


def test_help_imports_nothing_heavy() -> None:
    show = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    code = f"{show}; from disagg_launch import cli; cli.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exit codes" in done.stdout
    assert set(done.stderr.split()) & HEAVY == set()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists(name: str) -> None:
    module, attribute, _ = cli.COMMANDS[name]
    assert isinstance(getattr(importlib.import_module(f"disagg_launch.commands.{module}"), attribute), click.Command)


@pytest.mark.parametrize(
    ("error", "code"), [(BadInput, 2), (DoesNotFit, 3), (BackendRefused, 4), (NotReady, 5), (WorkerDied, 6), (KeyboardInterrupt, 130)]
)
def test_errors_become_exit_codes(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise error("what went wrong")

    monkeypatch.setattr(cli.root, "main", fails)
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == code
    if error is not KeyboardInterrupt:
        assert "what went wrong" in capsys.readouterr().err


def test_bad_use_is_exit_code_2() -> None:
    done = subprocess.run([sys.executable, "-m", "disagg_launch", "plna"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "plna" in done.stderr
    assert done.stdout == ""
