"""The router over real reference workers: official client, curl, and a generation worker killed in mid-stream."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

MODEL = "random:7"
PROMPT = "The quick brown fox jumps over the lazy dog, and then"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200:
                return
        assert process.poll() is None, "it ended while starting"
        time.sleep(0.05)
    raise AssertionError("not healthy in time")


class Run:
    """One context and two generation workers of the reference engine and a router, as processes."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self._log = self.log.open("ab")
        roles = {"ctx": "CONTEXT", "gen0": "GENERATION", "gen1": "GENERATION"}
        self.ports = {name: free_port() for name in (*roles, "router")}
        ctx_yaml = folder / "ctx.yaml"
        ctx_yaml.write_text("cache_transceiver_config: {backend: DEFAULT, kv_transfer_timeout_ms: 10000}\n")
        self.processes = {}
        for name, role in roles.items():
            flags = ["--host", "127.0.0.1", "--port", str(self.ports[name]), "--server_role", role, "--config", str(ctx_yaml)]
            self.processes[name] = self._start("-m", "disagg_launch.reference", MODEL, *flags)
        config = {"hostname": "127.0.0.1", "port": self.ports["router"], "front_door": {"health_interval_s": 0.2}}
        config["context_servers"] = {"urls": [f"127.0.0.1:{self.ports['ctx']}"]}
        config["generation_servers"] = {"urls": [f"127.0.0.1:{self.ports[name]}" for name in ("gen0", "gen1")]}
        (folder / "router.yaml").write_text(json.dumps(config))
        self.processes["router"] = self._start("-m", "disagg_launch", "router", "--config", str(folder / "router.yaml"), "--drain", "2")
        for name, process in self.processes.items():
            until_healthy(self.ports[name], process)

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *argv], stdout=self._log, stderr=self._log, env={**os.environ, "OMP_NUM_THREADS": "1"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['router']}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=60)

    def end(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        self._log.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    one = Run(tmp_path_factory.mktemp("run"))
    yield one
    one.end()


def texts(stream: Any, chat: bool) -> list[str]:
    return [(c.delta.content if chat else c.text) or "" for chunk in stream for c in chunk.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_the_official_client(run: Run, stream: bool) -> None:
    model = run.client.models.list().data[0].id
    ask: dict[str, Any] = {"model": model, "max_tokens": 8, "temperature": 0, "stream": stream}
    done = run.client.completions.create(prompt=PROMPT, **ask)
    text = "".join(texts(done, False)) if stream else done.choices[0].text
    assert text
    plain = run.client.completions.create(prompt=PROMPT, **{**ask, "stream": False})
    assert text == plain.choices[0].text and plain.usage is not None and plain.usage.completion_tokens == 8
    said = run.client.chat.completions.create(messages=[{"role": "user", "content": "hello"}], **ask)
    assert "".join(texts(said, True)) if stream else said.choices[0].message.content


def test_the_official_client_meets_errors(run: Run) -> None:
    with pytest.raises(openai.BadRequestError):
        run.client.completions.create(model="m", prompt=PROMPT, max_tokens=-1)
    with pytest.raises(openai.NotFoundError):
        run.client.embeddings.create(model="m", input="x")


def test_curl(run: Run) -> None:
    body = json.dumps({"model": "m", "prompt": PROMPT, "max_tokens": 4, "temperature": 0, "stream": True})
    said = subprocess.run(["curl", "-sN", run.url + "/v1/completions", "-d", body], capture_output=True, check=True, timeout=60).stdout
    assert said.startswith(b"data: {") and said.endswith(b"data: [DONE]\n\n")


def about(run: Run, name: str) -> Any:
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{run.ports[name]}/server_info", timeout=20))


def ask_and_leave(run: Run, when: str) -> None:
    """Streams with a long prompt (ctx) or a long answer (gen), left by their clients while such workers hold KV for some of them."""
    clients = []
    prompt, tokens = (PROMPT * 9, 30) if when == "ctx" else (PROMPT, 450)
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True}).encode()
    for _ in range(24):
        clients.append(socket.create_connection(("127.0.0.1", run.ports["router"])))
        clients[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    if when == "ctx":
        assert any(about(run, "ctx")["kv_tokens"]["running"] for _ in range(1000))
    else:  # all of them: the KV of a prompt that is finished in the moment in which its client leaves has a time limit only
        assert all(client.recv(1) == b"H" for client in clients)
        assert any(about(run, name)["kv_tokens"]["running"] for name in ("gen0", "gen1"))
    for client in clients:
        client.close()


@pytest.mark.parametrize("when", ["ctx", "gen"])
def test_clients_that_leave_free_the_kv_on_both_workers(run: Run, when: str) -> None:
    """During the prefill and during decoding; not by the requests' natural end, as the workers' log shows."""
    before = run.log.read_text().count("the client left: request cancelled")
    ask_and_leave(run, when)
    workers = [name for name in run.ports if name != "router"]
    while any(told["active_requests"] or any(told["kv_tokens"].values()) for told in (about(run, name) for name in workers)):
        time.sleep(0.02)
    assert run.log.read_text().count("the client left: request cancelled") > before
    page = urllib.request.urlopen(run.url + "/metrics", timeout=5).read().decode()
    assert "\ngen_error_requests_total 0\n" in page and "\nctx_error_requests_total 0\n" in page


@pytest.mark.parametrize("how", [signal.SIGKILL])
def test_a_generation_worker_killed_in_mid_stream_costs_no_token(run: Run, how: signal.Signals) -> None:
    """Greedy, many streams at once: every text equals that of an undisturbed run."""
    count, length = 8, 300
    prompts = [f"{PROMPT} {i} " for i in range(count)]
    begun = threading.Semaphore(0)

    def answer(prompt: str) -> str:
        ask: dict[str, Any] = {"max_tokens": length, "temperature": 0, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = run.client.completions.create(model="m", prompt=prompt, **ask)
        first = next(iter(stream)).choices[0].text
        begun.release()
        return first + "".join(texts(stream, False))

    wanted = [answer(prompt) for prompt in prompts]
    found = [""] * count

    def one(i: int) -> None:
        found[i] = answer(prompts[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for _ in range(2 * count):  # those before, and these: all have begun, so that each worker has half of them
        assert begun.acquire(timeout=60)
    run.processes["gen0"].send_signal(how)
    for thread in threads:
        thread.join(60)
    assert found == wanted
    page = urllib.request.urlopen(run.url + "/metrics", timeout=5).read().decode()
    assert int(page.split("\nresumed_streams_total ")[1].split("\n")[0]) >= 1 and "\nbroken_streams_total 0\n" in page
