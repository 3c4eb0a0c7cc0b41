"""The command line: a table of commands, each imported only when it is called, and the mapping of errors to exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Optional

import click

from disagg_launch import __version__
from disagg_launch.errors import BadInput, DisaggError

# name -> (module in disagg_launch.commands, attribute, one-line help). The help stands here so that --help imports nothing.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "plan": ("plan", "plan", "Print the rank layout of a topology file."),
    "diff": ("plan", "diff", "Print which ranks move between two topology files."),
    "lint": ("lint", "lint", "Say what is wrong before anything is submitted."),
    "schema": ("lint", "schema", "Print the JSON Schema of the topology file."),
    "import": ("lint", "import_", "Turn a TensorRT-LLM, srt-slurm or aiconfigurator file into a topology file."),
    "rehearse": ("rehearse", "rehearse", "Launch it with featherweight workers on this machine, and have things go wrong."),
    "render": ("run", "render", "Write the run folder and start nothing."),
    "up": ("run", "up", "Render, start, wait until ready, open the router."),
    "down": ("run", "down", "Stop a running deployment in order."),
    "status": ("run", "status", "Say how a deployment is."),
    "top": ("top", "top", "Watch a deployment: instances, GPUs, requests, latencies."),
    "explain": ("explain", "explain", "Say why a deployment failed, and what to do."),
    "trace": ("trace", "trace", "Say where the time of a start-up went."),
    "logs": ("logs", "logs", "Print the instances' logs."),
    "scale": ("scale", "scale", "Change how many instances a running deployment has."),
    "restart": ("scale", "restart", "Restart instances one after the other, drained first."),
    "upgrade": ("scale", "upgrade", "Replace a running deployment's instances by another file's, one by one."),
    "remove": ("scale", "remove", "Take instances out of a running deployment, safely."),
    "autoscale": ("autoscale", "autoscale", "Record a deployment's load, and try a scaling policy out on it."),
    "ask": ("ask", "ask", "Send one prompt to a deployment and print the answer."),
    "client": ("ask", "client", "Send the prompts of a file to a deployment."),
    "router": ("router", "router", "Serve the OpenAI-compatible front door."),
    "model": ("model", "model", "Fetch and list models of the reference engine."),
    "submit": ("slurm", "submit", "Send a run to Slurm and print the job id."),
    "wait": ("slurm", "wait", "Wait until a submitted run is ready or has failed."),
    "cancel": ("slurm", "cancel", "Cancel a submitted run."),
    "site": ("slurm", "site", "Show or probe site profiles."),
    "layout": ("layout", "layout", "Write and verify the forms of a layout: hostfile, rankfile, picture, ..."),
}

INTERRUPTED = 128 + signal.SIGINT
EPILOG = "Exit codes: 0 done, 1 a rehearsal did not go as expected, 2 bad use or bad file, 3 does not fit, 4 backend missing or refused, 5 not ready in time, 6 a worker died, 130/143 signals."  # noqa: E501


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Leave with 0 when the reader of our standard output has left (`| head`): that is no error. click itself would leave with 1."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be said there, not at the end either
        sys.exit(0)


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are used."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """As click's; `--help` is printed in here."""
        with _reader_may_leave():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        with _reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names in the order of the table, which is the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """The command, imported now; None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"disagg_launch.commands.{module}"), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        """The command that the words begin with; for a name that there is not, also what was probably meant."""
        if args and args[0] not in COMMANDS:
            import difflib

            if near := difflib.get_close_matches(args[0], COMMANDS, n=1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="disagg-launch")
def root() -> None:
    """Start disaggregated LLM serving from one topology file: plan, render, launch, wait, route."""


def main(argv: Optional[list[str]] = None) -> Any:
    """Run the command line and leave with the exit code of the table in `errors`."""
    interrupted = _notice_interrupts()
    try:
        # what it gives back is the code of click.exceptions.Exit, or None
        sys.exit(root.main(args=argv, prog_name="disagg-launch", standalone_mode=False))
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(wrong.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except DisaggError as error:
        click.echo(f"disagg-launch: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as wrong:
        # a file or folder that the user named, or a full disk
        click.echo(f"disagg-launch: {': '.join(str(one) for one in (wrong.filename, wrong.strerror or wrong) if one)}", err=True)
        sys.exit(BadInput.exit_code)
    except Exception:
        if interrupted:
            sys.exit(INTERRUPTED)
        raise


def _notice_interrupts() -> list[int]:
    """A list that is not empty any more after SIGINT: whoever was interrupted may make another error of it, as pydantic does."""
    seen: list[int] = []

    def interrupt(number: int, _: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    return seen
