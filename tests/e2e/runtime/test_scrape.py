"""The gateway's figures as Prometheus gets them: found through RUN/prometheus.json, from the beginning to the end."""

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request

import pytest
from deployments import until
from prometheus_client.parser import text_string_to_metric_families

from disagg_launch.launch import Policy


def scraped(run):
    """{name: {labels: value}} of the gateway's page; labels without `role`."""
    [target] = [t for t in json.loads((run.run / "prometheus.json").read_text()) if t["labels"]["part"] == "gateway"]
    url = f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}"
    assert url == json.loads((run.run / "state/status.json").read_text())["metrics"]["gateway"]
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        page = answer.read().decode()
    out = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            out.setdefault(sample.name, {})[tuple(v for k, v in sorted(sample.labels.items()) if k != "role")] = sample.value
    return out


def test_from_starting_over_a_restart_to_the_end(deploy):
    run = deploy((1, 1), flags={"ctx1": ("--load-s", "1")}, policy=Policy("restart", max_restarts=1, backoff_s=0.1, grace_s=2))
    run.up()
    until(lambda: (run.run / "prometheus.json").exists() and (run.run / "state/status.json").exists())
    starting = until(lambda: (now := scraped(run))["disagg_state"]["starting",] and now)
    assert "disagg_ready_seconds" not in starting
    run.ready()
    ready = until(lambda: (now := scraped(run))["disagg_state"]["ready",] and now)
    assert ready["disagg_instances"] == {("routed",): 2}
    assert ready["disagg_ready_seconds"][()] > 0
    os.kill(run.pids("ctx1")[0], signal.SIGKILL)
    until(lambda: scraped(run)["disagg_instance_restarts_total"]["ctx1",] == 1)
    again = until(lambda: (now := scraped(run))["disagg_instance_healthy"]["ctx1",] and now)
    assert again["disagg_ends_total"] == {("ctx0",): 0, ("ctx1",): 1, ("router",): 0}
    assert again["disagg_instance_restarts_total"] == {("ctx0",): 0, ("ctx1",): 1}
    assert run.stop() == 130
    assert not (run.run / "prometheus.json").exists()


def test_nonsense_and_silence_are_survived(deploy):
    run = deploy()
    run.up().ready()
    host, port = json.loads((run.run / "prometheus.json").read_text())[0]["targets"][0].split(":")
    silent = socket.create_connection((host, int(port)))
    for nonsense in (b"\r\n\r\n", b"\xff\xfe \r\n\r\n", b"x" * 100_000):
        with socket.create_connection((host, int(port))) as one:
            one.sendall(nonsense)
            one.shutdown(socket.SHUT_WR)
            one.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert b" 200 " not in one.recv(1000)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{host}:{port}/state/token", timeout=30)
    assert scraped(run)["disagg_state"]["ready",] == 1
    assert run.stop() == 130
    silent.close()
    assert "Traceback" not in run.text()
