"""`disagg-launch ask` and `disagg-launch client`: prompts to a running deployment, answers back, with how fast they came."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from disagg_launch.commands.answer import CONNECT_S, PATHS, Answer, send, session
from disagg_launch.errors import BadInput, NotReady

DEFAULT_RUN = Path("runs/latest")
F = TypeVar("F", bound=Callable[..., Any])


tokens_option = click.option("--max-tokens", type=click.IntRange(min=1), default=100, show_default=True, help="The longest answer.")
temperature_option = click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: always the likeliest token."
)


def endpoint_option(default: str) -> Callable[[F], F]:
    """Which of PATHS is asked."""
    said = "chat: the model's chat template around the prompt; completions: the prompt as it is."
    return click.option("-e", "--endpoint", type=click.Choice(sorted(PATHS)), default=default, show_default=True, help=said)


trust_option = click.option(
    "--trust", default="", help="The certificate file by which to know an https router. [default: the deployment's]"
)


@click.command()
@click.argument("prompt")
@click.option("--run", "run", type=click.Path(path_type=Path), help=f"Run folder of the deployment. [default: {DEFAULT_RUN}]")
@click.option("--url", help="The router itself, for example http://127.0.0.1:8000, in place of a run folder.")
@endpoint_option("chat")
@tokens_option
@temperature_option
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print the answer as it comes.")
@trust_option
def ask(prompt: str, run: Optional[Path], url: Optional[str], endpoint: str, max_tokens: int, temperature: float, stream: bool,
        trust: str) -> None:  # fmt: skip
    """Send one prompt to a deployment and print the answer; how fast it came goes to standard error."""
    base, shown = (url.rstrip("/"), "") if url else _door_of_run(run or DEFAULT_RUN)
    body = {"max_tokens": max_tokens, "temperature": temperature, "stream": stream}
    named = _model_in(_read_yaml((run or DEFAULT_RUN) / "spec.yaml")) if not url else ""
    answer = send(base, endpoint, prompt, body, named, trust or shown, show=_echo if stream else None)
    click.echo("" if stream else answer.text)
    click.echo(_speed(answer), err=True)


@click.command()
@click.option(
    "-c",
    "--disagg_config-file",
    "--disagg-config-file",
    "config",
    required=True,
    type=click.Path(path_type=Path),
    help="The topology file, or a run folder's configs/router.yaml.",
)
@click.option("-p", "--prompts-file", "prompts", required=True, type=click.Path(path_type=Path), help="A JSON list of prompts.")
@tokens_option
@temperature_option
@click.option(
    "--server-start-timeout",
    type=click.FloatRange(min=0),
    help="Seconds to wait for the router to be healthy; without it, there is no waiting.",
)
@endpoint_option("completions")
@click.option(
    "-o",
    "--output-file",
    type=click.Path(path_type=Path),
    default=Path("output.json"),
    show_default=True,
    help="A JSON list of the answers.",
)
@click.option("--streaming/--no-streaming", default=True, show_default=True, help="Time to the first token is seen only when streaming.")
@click.option("--ignore-eos", is_flag=True, help="Go on after the end of the text, up to --max-tokens.")
@click.option("--url", help="The router, in place of the file's hostname and port.")
@trust_option
def client(config: Path, prompts: Path, max_tokens: int, temperature: float, server_start_timeout: Optional[float], endpoint: str,
           output_file: Path, streaming: bool, ignore_eos: bool, url: Optional[str], trust: str) -> None:  # fmt: skip
    """Send all prompts of a file at once; answers go to standard output and OUTPUT_FILE, a table of speeds to standard error."""
    where = _read_yaml(config)
    shown = "" if url else _certificate_in(where, config)
    scheme = "https" if shown else "http"
    base = (url or f"{scheme}://{where.get('hostname') or 'localhost'}:{where.get('port') or 8000}").rstrip("/")
    trust = trust or shown
    asked = _read_prompts(prompts)
    if server_start_timeout:
        _wait_until_healthy(base, server_start_timeout, trust)
    body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "stream": streaming}
    if ignore_eos:
        body["ignore_eos"] = True
    answers = _at_once(lambda prompt: send(base, endpoint, prompt, body, _model_in(where), trust), asked)
    for answer in answers:
        click.echo(f"{click.style('> ' + answer.prompt, bold=True)}\n{answer.text.strip()}\n")
    click.echo(_table(answers), err=True)
    # last: if it cannot be written, the answers have been seen
    output_file.write_text(json.dumps([answer.text for answer in answers], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _at_once(ask_one: Callable[[str], Answer], prompts: list[str]) -> list[Answer]:
    """The answers in the order of the prompts; up to 256 are waited for at once."""
    pool = ThreadPoolExecutor(max_workers=max(1, min(len(prompts), 256)))
    try:
        answers = list(pool.map(ask_one, prompts))
    except KeyboardInterrupt:
        # the interpreter would wait for every thread, and so for servers that may never answer
        os._exit(128 + signal.SIGINT)
    pool.shutdown()
    return answers


def _model_in(file: dict[str, Any]) -> str:
    """The model that a topology file names, the generation servers' if it is in the sections; "" if there is none."""
    sections = (file.get(key) for key in ("generation_servers", "context_servers"))
    return str(next((one["model"] for one in (file, *sections) if isinstance(one, dict) and one.get("model")), ""))


def _speed(answer: Answer) -> str:
    ttft = "" if answer.ttft_s is None else f"TTFT {answer.ttft_s * 1000:.0f} ms, "
    return f"[{answer.tokens} tokens, {ttft}{answer.tokens_per_s:.1f} tokens/s]"


def _table(answers: list[Answer]) -> str:
    lines = [f"{'prompt':<44} {'TTFT':>9} {'tokens':>7} {'tokens/s':>9}"]
    for answer in answers:
        name = " ".join(answer.prompt.split())
        ttft = "-" if answer.ttft_s is None else f"{answer.ttft_s * 1000:.0f} ms"
        lines.append(f"{name if len(name) <= 44 else name[:41] + '...':<44} {ttft:>9} {answer.tokens:>7} {answer.tokens_per_s:>9.1f}")
    total = sum(a.tokens for a in answers)
    longest = max((a.total_s for a in answers), default=0.0)
    lines.append(f"{len(answers)} prompts, {total} tokens in {longest:.1f} s: {total / max(longest, 1e-9):.1f} tokens/s together")
    return "\n".join(lines)


def _echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _certificate_in(file: dict[str, Any], path: Path) -> str:
    """The certificate of the router that a topology file or the router's own file describes; "" for plain HTTP."""
    router = file.get("router")
    maps = (file.get("front_door"), router.get("options") if isinstance(router, dict) else None)
    found = next((one["tls_cert_file"] for one in maps if isinstance(one, dict) and one.get("tls_cert_file")), "")
    return str(path.parent / Path(str(found)).expanduser()) if found else ""


def _door_of_run(run: Path) -> tuple[str, str]:
    """Where a run's router listens, as its gateway says, and the certificate by which to know it, if that is here too.

    BadInput when no gateway has run there.
    """
    try:
        router = json.loads((run / "state" / "status.json").read_text())["router"]
        url, shown = str(router["url"]), str(router.get("certificate", ""))
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{run}: no deployment was started there; name its run folder with --run, or the router itself with --url") from None
    return url, shown if os.path.exists(shown) else ""


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as wrong:
        raise BadInput(f"{path}: cannot be read: {wrong}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: found {type(raw).__name__}, a map with hostname and port is needed")
    return raw


def _read_prompts(path: Path) -> list[str]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise BadInput(f"{path}: cannot be read: {wrong}; a JSON list of strings is needed") from None
    if not isinstance(raw, list) or not all(isinstance(one, str) for one in raw):
        raise BadInput(f"{path}: a JSON list of strings is needed")
    return raw


def _wait_until_healthy(base: str, limit_s: float, trust: str) -> None:
    import requests

    until, http = time.monotonic() + limit_s, session(trust)
    while time.monotonic() < until:
        try:
            if http.get(base + "/health", timeout=CONNECT_S).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.25)
    raise NotReady(f"{base}/health was not 200 within {limit_s:g} s")
