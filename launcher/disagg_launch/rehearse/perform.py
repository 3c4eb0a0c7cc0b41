"""A rehearsal as it goes: the gateway of a prepared run folder from its first process to its last, with clients at its front door."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from disagg_launch import backends
from disagg_launch.rehearse import visitors
from disagg_launch.rehearse.report import Seen
from disagg_launch.rehearse.scenario import Scenario
from disagg_launch.rehearse.visitors import Newcomer

SERVES = re.compile(r"^\[0\] \S+ healthy at ([\d.]+)$", re.M)


def perform(folder: Path, scenario: Scenario) -> Seen:
    """Run it; what was seen."""
    began = time.monotonic()
    gateway = subprocess.Popen(backends.load("local").gateway(str(folder), os.environ), stdout=subprocess.PIPE, text=True)
    seen: dict[str, Any] = {"complaints": []}
    front = json.loads((folder / "launch.json").read_text())["router"]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(visitors.newcomer, "localhost", front["port"], lambda: gateway.poll() is not None)
        try:
            assert gateway.stdout is not None
            said = gateway.stdout.readline()
            if said.startswith("ready: "):
                seen["ready_s"] = time.monotonic() - began
                seen |= _served(gateway, folder, said.removeprefix("ready: ").strip(), scenario)
        finally:
            with contextlib.suppress(ProcessLookupError):
                gateway.terminate()
            code = gateway.wait()
    if "ready_s" in seen:
        seen |= _opening(folder, first.result())
    plan = json.loads((folder / "plan.json").read_text())
    verdict = folder / "state/verdict.json"
    return Seen(len(plan["instances"]), len(plan["ranks"]), code, json.loads(verdict.read_text()) if verdict.exists() else {}, **seen)


def events(folder: Path) -> Iterator[dict[str, Any]]:
    """What the launcher wrote down, from state/events.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "state/events.jsonl").read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _served(gateway: subprocess.Popen[str], folder: Path, url: str, scenario: Scenario) -> dict[str, Any]:
    """What was seen while it served."""
    process = psutil.Process(gateway.pid)
    seen: dict[str, Any] = {"start_cpu_s": _cpu_s(process)}
    from_s = time.monotonic()
    over = lambda: time.monotonic() > from_s + scenario.serve_s or gateway.poll() is not None  # noqa: E731
    seen["requests"], seen["complaints"] = visitors.visit(url, scenario.requests_per_s, over)
    with contextlib.suppress(psutil.Error):
        seen["rest_share"] = (_cpu_s(process) - seen["start_cpu_s"]) / (time.monotonic() - from_s)
    return {**seen, "restarts": _restarts(folder)}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _restarts(folder: Path) -> dict[str, int]:
    """How often each instance came back: it was started again and is healthy."""
    status = json.loads((folder / "state/status.json").read_text())
    return {one["name"]: one["restarts"] if not one["ended"] and one["stage"] != "started" else 0 for one in status["instances"]}


def _opening(folder: Path, first: Newcomer | None) -> dict[str, Any]:
    """What a client had to wait for an answer; seconds from the last worker's own word of its health to the open door, and to an answer."""
    opened = [e["at"] for e in events(folder) if e["event"] == "router" and e.get("stage") == "open"]
    words = [SERVES.search(log.read_text(encoding="utf-8", errors="replace")) for log in (folder / "logs").glob("*[0-9].log")]
    times = [float(word[1]) for word in words if word]
    found = {"open_after_s": opened[0] if opened else None, "answer_after_s": first.at if first else None}
    after_s = {name: at - max(times) for name, at in found.items() if at is not None and times}
    return {**after_s, **({"answer_s": first.usual_s} if first else {})}
