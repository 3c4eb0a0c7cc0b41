"""The whole path as a user walks it: a topology file, `disagg-launch up`, a question answered, nothing left running."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator

import openai
import psutil
import pytest
import requests
import yaml
from certificates import certificate
from free_ports import free_ports

CLI = [sys.executable, "-m", "disagg_launch"]
SPEC = """\
model: "random:7"
port: {port}
max_seq_len: 512
context_servers: {{num_instances: 2}}
generation_servers: {{num_instances: 1, tensor_parallel_size: {tp}}}
cache_transceiver_config: {{backend: DEFAULT, max_tokens_in_buffer: 512}}
engine: {{name: reference}}
cluster: {{nodes: 1, gpus_per_node: 8, base_port: {base}}}
restart: {{on_failure: {on_failure}, backoff_s: 0.1, grace_s: 5}}
readiness: {{limit_s: 120}}
"""


@pytest.fixture
def spec(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A topology of two context instances and one generation instance; nobody who carries its run folder's name is left behind."""
    path = tmp_path / "small.yaml"
    write(path)
    yield path
    left = _of_run(tmp_path)
    for one in left:
        one.kill()
    assert left == []


def write(path: pathlib.Path, tp: int = 1, on_failure: str = "stop", more: str = "") -> None:
    base = free_ports(7) + 1
    path.write_text(SPEC.format(port=base, base=base + 1, tp=tp, on_failure=on_failure) + more)


def _of_run(folder: pathlib.Path, instance: str = "") -> list[psutil.Process]:
    """Processes whose environment names a run folder in `folder`, and the instance if one is given."""
    found = []
    for one in psutil.process_iter():
        try:
            environ = one.environ()
            ours = str(folder) in environ.get("DISAGG_RUN", "") and instance in ("", environ.get("DISAGG_INSTANCE"))
            if ours and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            continue
    return found


def up(spec: pathlib.Path, *more: str) -> subprocess.Popen[str]:
    run = spec.parent / "run"
    return subprocess.Popen([*CLI, "up", str(spec), "--run", str(run), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_ready(gateway: subprocess.Popen[str]) -> str:
    assert gateway.stdout is not None and gateway.stderr is not None
    line = gateway.stdout.readline()
    assert line.startswith("ready: "), gateway.stderr.read()
    return line.removeprefix("ready: ").strip()


def answer(url: str) -> str:
    body = {"model": "random:7", "prompt": [5, 6, 7, 8], "max_tokens": 8, "temperature": 0}
    reply = requests.post(f"{url}/v1/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["text"]
    return text


def ended(gateway: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, what it said on standard error), once it is over."""
    said = gateway.communicate(timeout=60)[1]
    return gateway.returncode, said


def test_up_runs_a_command_when_ready_and_leaves_nothing(spec: pathlib.Path) -> None:
    code = "import os, requests; requests.get(os.environ['DISAGG_URL'] + '/v1/models').raise_for_status(); raise SystemExit(7)"
    status, said = ended(up(spec, "--", sys.executable, "-c", code))
    assert status == 7, said
    for name in ("ctx0", "ctx1", "gen0"):
        assert f"{name}: proved" in said


def test_status_logs_and_down(spec: pathlib.Path) -> None:
    gateway = up(spec)
    run = str(spec.parent / "run")
    url = until_ready(gateway)
    assert answer(url)
    status = subprocess.run([*CLI, "status", run, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(status.stdout)
    assert (found["state"], [i["stage"] for i in found["instances"]]) == ("ready", ["routed"] * 3)
    lines = subprocess.run([*CLI, "status", run], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    told = [f"  {i['name']:8} routed  {i['url']}  pid {i['ranks'][0]['pid']}" for i in found["instances"]]
    assert lines == [*told, f"  router   routed  {found['router']['url']}"]
    logs = subprocess.run([*CLI, "logs", run, "gen0"], capture_output=True, text=True, check=True)
    assert "serving as generation" in logs.stdout
    assert "ctx0" not in logs.stdout
    subprocess.run([*CLI, "down", run], check=True)
    assert ended(gateway)[0] == 0
    assert subprocess.run([*CLI, "status", run], capture_output=True, check=False).returncode == 6
    again = subprocess.run([*CLI, "down", run], capture_output=True, text=True, check=False)
    assert (again.returncode, "is not up" in again.stderr) == (4, True)


def test_a_context_worker_killed_in_mid_start_ends_the_wait(spec: pathlib.Path) -> None:
    gateway = up(spec)
    deadline = time.monotonic() + 60
    victims: list[psutil.Process] = []
    while not victims and time.monotonic() < deadline:
        victims = _of_run(spec.parent, "ctx1")
    victims[0].kill()
    status, said = ended(gateway)
    assert status == 6
    assert re.search(r"failed: ctx1 ended: .*SIGKILL", said), said
    verdict = json.loads((spec.parent / "run/state/verdict.json").read_text())
    assert verdict["instance"] == "ctx1"


def test_a_gateway_killed_with_9_leaves_nobody(spec: pathlib.Path) -> None:
    gateway = up(spec)
    until_ready(gateway)
    assert len(_of_run(spec.parent)) >= 4
    gateway.kill()
    gateway.communicate()
    deadline = time.monotonic() + 30
    while _of_run(spec.parent) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _of_run(spec.parent) == []
    assert subprocess.run([*CLI, "status", str(spec.parent / "run")], capture_output=True, check=False).returncode == 6


def test_a_killed_worker_comes_back_alone_behind_tls(spec: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Clients come by TLS, to two router processes; the launcher opens the door, heals, grows and ends beside it."""
    cert, _ = certificate(tmp_path)
    write(spec, on_failure="restart", more="router: {options: {tls_cert_file: cert.pem, tls_key_file: cert-key.pem, processes: 2}}\n")
    gateway = up(spec)
    url = until_ready(gateway)
    assert url.startswith("https://localhost:")
    run = spec.parent / "run"
    with openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(cert)), timeout=60) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", http_client=http, max_retries=0)
        before = streamed(client)
        with pytest.raises(requests.ConnectionError):
            requests.get(url.replace("https", "http") + "/health", timeout=30)
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{url}/health", timeout=30)
        found = json.loads(subprocess.run([*CLI, "status", str(run), "--json"], capture_output=True, check=True).stdout)
        assert (found["router"]["url"], found["router"]["certificate"]) == (url, str(cert))
        inside = found["router"]["inside"]
        assert requests.get(f"{inside}/health", timeout=30).status_code == 200 and found["metrics"]["router"] == f"{inside}/metrics"
        asked = subprocess.run([*CLI, "ask", "hello", "--run", str(run), "--max-tokens", "4"], capture_output=True, text=True, check=False)
        assert asked.returncode == 0 and "[4 tokens" in asked.stderr, asked.stderr
        pids = _routed(run)
        os.kill(pids["gen0"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while _routed(run).get("gen0") in (None, pids["gen0"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert {**_routed(run), "gen0": 0} == {**pids, "gen0": 0}
        assert streamed(client) == before
        subprocess.run([*CLI, "scale", str(run), "gen=+1"], check=True, capture_output=True)
        assert "gen1" in _routed(run) and streamed(client) == before
        config = yaml.safe_load((run / "configs" / "router.yaml").read_text())["front_door"]
        assert config["tls_key_file"] == str(tmp_path / "cert-key.pem"), "the path as it was, and not one in the run folder"
        gateway.send_signal(signal.SIGINT)  # Ctrl-C, with connections open that nobody uses
        assert ended(gateway)[0] == 130
    secret = (tmp_path / "cert-key.pem").read_text().splitlines()[1]
    assert not [file for file in run.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def streamed(client: openai.OpenAI) -> str:
    """The text of a streamed completion; a request that comes while a worker is away waits for it."""
    stream = client.completions.create(model="random:7", prompt=[5, 6, 7, 8], max_tokens=8, temperature=0, stream=True)
    return "".join(piece.choices[0].text for piece in stream if piece.choices)


def _routed(run: pathlib.Path) -> dict[str, int]:
    """The pids of the instances that requests are sent to."""
    status = json.loads((run / "state/status.json").read_text())
    return {i["name"]: i["ranks"][0].get("pid") for i in status["instances"] if i["stage"] == "routed"}


@pytest.mark.mpi
def test_tensor_parallel_ranks_answer_as_one(spec: pathlib.Path) -> None:
    answers = []
    for tp, backend in ((1, "local"), (2, "local"), (2, "mpirun")):
        write(spec, tp=tp)
        gateway = up(spec, "--backend", backend)
        answers.append(answer(until_ready(gateway)))
        subprocess.run([*CLI, "down", str(spec.parent / "run")], check=True)
        assert ended(gateway)[0] == 0
        (spec.parent / "run").rename(spec.parent / f"run-{tp}-{backend}")
    assert answers[0] == answers[1] == answers[2]


def test_nothing_is_written_for_a_bad_file(spec: pathlib.Path) -> None:
    spec.write_text("port: eighty\ncontxt_servers: {num_instances: 1}\ncluster: {nodse: 1}\n")
    done = up(spec)
    status, said = ended(done)
    assert status == 2
    for place in (f"{spec}:1:7", f"{spec}:3:11"):
        assert place in said
    assert not (spec.parent / "run").exists()


def test_a_used_run_folder_is_not_overwritten(spec: pathlib.Path) -> None:
    assert ended(up(spec, "--", "true"))[0] == 0
    status, said = ended(up(spec, "--", "true"))
    assert (status, "found a run folder that was used" in said) == (2, True)


def test_a_missing_command_behind_the_dashes_is_named(spec: pathlib.Path) -> None:
    status, said = ended(up(spec, "--", "no-such-program-here"))
    assert (status, "no-such-program-here" in said) == (4, True), said
    assert not (spec.parent / "run").exists()
