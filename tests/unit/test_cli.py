"""The command line: help without heavy imports, exit codes from the table, commands that exist."""

import importlib
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import click
import pytest

from disagg_launch import cli
from disagg_launch.errors import BackendRefused, BadInput, DoesNotFit, NotReady, WorkerDied

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
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


def test_an_interrupt_that_became_another_error_is_an_interrupt() -> None:
    """As in pydantic, which builds a model while the command line is imported."""
    code = """
import os, signal
from disagg_launch import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
def fails(**_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ValueError("no model") from None
cli.root.main = fails
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def call(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "disagg_launch", *map(str, words)], capture_output=True, text=True, check=False, **more)


def test_bad_use_is_exit_code_2() -> None:
    done = call("plna")
    assert done.returncode == 2
    assert "No such command 'plna'. Did you mean 'plan'?" in done.stderr
    assert done.stdout == ""


def test_errors_that_lint_found_are_exit_code_2() -> None:
    assert call("lint", EXAMPLES / "laptop.yaml").returncode == 0
    assert call("lint", "/dev/null").returncode == 2


def test_a_reader_that_leaves_early_is_no_error() -> None:
    quoted = shlex.join([sys.executable, "-m", "disagg_launch", "plan", str(EXAMPLES / "laptop.yaml")])
    done = subprocess.run(["bash", "-c", f"{quoted} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [("plan", "laptop.yaml"), ("render", "--dry-run", "laptop.yaml"), ("schema",)])
def test_a_full_disk_is_said_without_a_traceback(words: tuple[str, ...]) -> None:
    quoted = shlex.join([sys.executable, "-m", "disagg_launch", *words])
    done = subprocess.run(["bash", "-c", f"{quoted} > /dev/full"], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "disagg-launch: No space left on device\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    module, attribute, _ = cli.COMMANDS[name]
    command = getattr(importlib.import_module(f"disagg_launch.commands.{module}"), attribute)
    for one in (command, *getattr(command, "commands", {}).values()):
        assert one.help
        assert [option.opts for option in one.params if isinstance(option, click.Option) and not option.help] == []
