"""Our router beside sglang-router, vllm-router and a one-hop nginx, over the same workers, in one run.

    python bench/router/run.py [--rounds 3] [--only ours,sglang-router] [--scenarios max,rate100] [--seconds 1.5] [--realtime]

Builds the workers and the load in C (gcc), makes a virtual environment for each peer and fetches Debian's nginx under bench/.venvs, and
writes bench/router/out/:
results.json, table.md and plot.svg. The router is pinned to one core, everything else to another; rounds are interleaved, in turned
order every second time. On a machine that others use, CPU time per request is the figure to trust; `--realtime` (root) keeps them out
for the length of each measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT, VENVS = HERE / "out", HERE.parent / ".venvs"
CTX, GEN, PORT, METRICS = 9131, 9231, 9331, 9431
BASE = "sglang-router"
NGINX = ("/usr/sbin/nginx", str(VENVS / "nginx/usr/sbin/nginx"))

# scenario -> (arguments of load, seconds or None for --seconds)
SCENARIOS: dict[str, tuple[list[str], float | None]] = {
    "max": (["-c", "32"], None),
    "rate100": (["-c", "8", "-r", "100"], 3.0),
    "burst": (["-c", "64", "-s", "-m", "128"], None),
    "paced": (["-c", "64", "-s", "-m", "128", "-g", "10000"], 2.6),
    "32KB": (["-c", "32", "-b", "32768"], None),
}


@dataclass(frozen=True)
class Router:
    """How a router is started; `package` is pip's, "" for what is there already."""

    name: str
    argv: tuple[str, ...]
    package: str = ""
    files: dict[str, str] = field(default_factory=dict)


def routers() -> list[Router]:
    """All of them, ours first."""
    pd = ("--host", "127.0.0.1", "--port", str(PORT), "--policy", "round_robin", "--worker-startup-check-interval", "1")
    sglang = (str(VENVS / "sglang/bin/python"), "-m", "sglang_router.launch_router", *pd, "--pd-disaggregation", "--log-level", "warn")
    vllm = (str(VENVS / "vllm/bin/vllm-router"), *pd, "--vllm-pd-disaggregation", "--log-level", "error")
    sides = ("--decode", f"http://127.0.0.1:{GEN}", "--prometheus-port", str(METRICS))
    found = [
        *(_ours(f"ours x {n}" if n > 1 else "ours", n) for n in (1, 2, 4) if n <= max(1, (os.cpu_count() or 2) - 1)),
        Router(BASE, (*sglang, "--prefill", f"http://127.0.0.1:{CTX}", "9000", *sides), "sglang-router==0.3.2"),
        Router("vllm-router", (*vllm, "--prefill", f"http://127.0.0.1:{CTX}", *sides), "vllm-router==0.1.17"),
    ]
    nginx = next((path for path in NGINX if os.path.exists(path)), "")
    if nginx:
        text = (
            f"daemon off; worker_processes 1; pid {OUT}/nginx.pid; error_log {OUT}/nginx.err;\nevents {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; client_max_body_size 9m; client_body_buffer_size 64k;\n"
            + "".join(f"{kind}_temp_path {OUT}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            + "\n"
            + f"upstream gen {{ server 127.0.0.1:{GEN}; keepalive 128; }}\nserver {{ listen 127.0.0.1:{PORT}; keepalive_requests 1000000;\n"
            'location / { proxy_pass http://gen; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; } } }\n'
        )
        found.append(Router("nginx, one hop", (nginx, "-c", str(OUT / "nginx.conf")), files={"nginx.conf": text}))
    return found


def _ours(name: str, processes: int) -> Router:
    """With everything on that a deployment has on: least busy worker, access log, health, breaker, resuming, limits."""
    least_busy = {"type": "load_balancing"}
    config: dict[str, Any] = {"hostname": "127.0.0.1", "port": PORT}
    config["context_servers"] = {"urls": [f"127.0.0.1:{CTX}"], "router": least_busy}
    config["generation_servers"] = {"urls": [f"127.0.0.1:{GEN}"], "router": least_busy}
    config["front_door"] = {"processes": processes, "access_log": str(OUT / "access.log")}
    path = OUT / f"ours-{processes}.json"
    return Router(name, (sys.executable, "-m", "disagg_launch", "router", "--config", str(path)), files={path.name: json.dumps(config)})


def fetch_nginx() -> None:
    """Debian's nginx, unpacked under bench/.venvs and not installed; where that cannot be had, the others are measured without it."""
    folder = VENVS / "nginx"
    if any(map(os.path.exists, NGINX)) or not shutil.which("apt-get"):
        return
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "-q", "download", "nginx"], cwd=folder, check=False)
    for package in folder.glob("nginx_*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)


def build() -> None:
    """The C programs and the peers' environments, made once."""
    fetch_nginx()
    OUT.mkdir(exist_ok=True)
    for name in ("worker", "load"):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", OUT / name, HERE / f"{name}.c"], check=True)
    for router in routers():
        folder = VENVS / router.package.split("-")[0]
        if router.package and not folder.exists():
            print(f"installing {router.package}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin/pip", "install", "-q", router.package], check=True)


class Place:
    """Where processes run: on one core, and with `realtime` before all others (round robin among themselves)."""

    def __init__(self, core: int, realtime: bool) -> None:
        self._core, self._realtime = core % (os.cpu_count() or 1), realtime

    def __call__(self) -> None:
        os.sched_setaffinity(0, {self._core})
        if self._realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{found[-1]}/task"):
                todo += map(int, Path(f"/proc/{found[-1]}/task/{thread}/children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process tree so far."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            total += sum(int(Path(f"/proc/{one}/task/{t}/schedstat").read_text().split()[0]) for t in os.listdir(f"/proc/{one}/task"))
    return total / 1e9


def rss_mb(pid: int) -> float:
    """Resident megabytes of a process tree."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
    return total / 1024


def answers() -> bool:
    """Whether a completion is answered."""
    body = b'{"model":"mock","prompt":"hello","max_tokens":1}'
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def measure(router: Router | None, scenarios: list[str], seconds: float, realtime: bool) -> dict[str, Any]:
    """One round of one router (None: straight to the generation worker)."""
    if answers():
        raise SystemExit(f"something answers on port {PORT} already, and would be measured instead: end it")
    workers = [
        subprocess.Popen([OUT / "worker", str(port), role], preexec_fn=Place(1, realtime))
        for port, role in ((CTX, "context"), (GEN, "generation"))
    ]
    process, result = None, {}
    try:
        time.sleep(0.2)
        if router:
            for name, text in router.files.items():
                (OUT / name).write_text(text)
            with (OUT / f"{router.name.split(',')[0]}.log").open("wb") as log:
                began = time.monotonic()
                process = subprocess.Popen(router.argv, stdout=log, stderr=log, preexec_fn=Place(0, realtime), cwd=OUT)
            while not answers():
                if process.poll() is not None or time.monotonic() > began + 60:
                    return {"failed": (OUT / f"{router.name.split(',')[0]}.log").read_text()[-500:]}
                time.sleep(0.01)
            result = {"ready_s": time.monotonic() - began, "rss_idle_mb": rss_mb(process.pid)}
        for name in scenarios:
            arguments, fixed = SCENARIOS[name]
            time.sleep(0.7)  # the other users of the machine must live too
            result[name] = _load(arguments, fixed or seconds, process.pid if process else 0, realtime)
        if process:
            result["rss_mb"] = rss_mb(process.pid)
    finally:
        for one in [*([process] if process else []), *workers]:
            _end(one)
    return result


def _load(arguments: list[str], seconds: float, pid: int, realtime: bool) -> dict[str, Any]:
    command = [OUT / "load", str(PORT if pid else GEN), "-d", str(seconds), "-w", "0.4", *arguments]
    before = cpu_s(pid) if pid else 0.0
    said: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True, preexec_fn=Place(1, realtime), timeout=seconds + 60).stdout
    )
    spent = cpu_s(pid) - before if pid else 0.0
    said["cpu_us_per_request"] = spent * 1e6 / max(1, said["all_requests"])
    # the warm-up's events are not counted, but its CPU time is
    said["cpu_us_per_event"] = spent * 1e6 / max(1, said["events"] * (seconds + 0.4) / seconds)
    return said


def _end(process: subprocess.Popen[Any]) -> None:
    below = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)
    for pid in below:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


COLUMNS: list[tuple[str, str, str, str, int]] = [  # title, scenario, key, which of the rounds, decimals
    ("requests/s", "max", "rps", "median", 0),
    ("CPU us/request", "max", "cpu_us_per_request", "median", 0),
    ("p50 ms at 100/s", "rate100", "p50_us", "median", 2),
    ("best p99 ms", "rate100", "p99_us", "min", 2),
    ("TTFT of 64 ms", "paced", "ttft_p50_us", "median", 1),
    ("burst events/s", "burst", "events_per_s", "median", 0),
    ("CPU us/event", "paced", "cpu_us_per_event", "median", 1),
    ("event p50 us", "paced", "travel_p50_us", "median", 0),
    ("32 KB requests/s", "32KB", "rps", "median", 0),
    ("RSS MB", "", "rss_mb", "median", 0),
    ("ready s", "", "ready_s", "median", 2),
]


def figure(rounds: list[dict[str, Any]], scenario: str, key: str, which: str) -> float | None:
    """One figure over the rounds."""
    sections = [one.get(scenario, {}) if scenario else one for one in rounds]
    values = [section[key] for section in sections if key in section]
    if not values:
        return None
    value = min(values) if which == "min" else statistics.median(values)
    return value / 1000 if key.endswith("_us") and not key.startswith("travel") else value


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: figures, and in brackets how many times the base's."""
    lines = ["| router | " + " | ".join(c[0] for c in COLUMNS) + " | errors |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, rounds in results.items():
        cells = []
        for _, scenario, key, which, decimals in COLUMNS:
            value, base = figure(rounds, scenario, key, which), figure(results.get(BASE, []), scenario, key, which)
            text = "-" if value is None else f"{value:.{decimals}f}"
            cells.append(f"{text} ({value / base:.2f}x)" if value and base and name != BASE else text)
        errors = sum(section.get("errors", 0) for one in rounds for section in one.values() if isinstance(section, dict))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {errors} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, list[dict[str, Any]]]) -> str:
    """SVG: bars for requests/s, CPU per request and CPU per event."""
    parts, y = [], 20
    for title, scenario, key, which, decimals in [c for c in COLUMNS if c[0] in ("requests/s", "CPU us/request", "CPU us/event")]:
        rows = {n: v for n, r in results.items() if n != "direct" and (v := figure(r, scenario, key, which))}
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{title}</text>')
        for name, value in rows.items():
            y += 20
            width = 420 * value / max(rows.values())
            fill = "#2a7" if name.startswith("ours") else "#89a"
            parts.append(f'<text x="10" y="{y + 11}">{name}</text><rect x="130" y="{y}" width="{width:.0f}" height="14" fill="{fill}"/>')
            parts.append(f'<text x="{135 + width:.0f}" y="{y + 11}">{value:.{decimals}f}</text>')
        y += 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Run what the command line asks for and write the results down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=1.5, help="of each measurement at full load")
    options.add_argument("--only", default="", help="names of routers, separated by commas")
    options.add_argument("--scenarios", default=",".join(SCENARIOS), help="the ones to run, separated by commas")
    options.add_argument("--realtime", action="store_true")
    asked = options.parse_args()
    build()
    chosen = [r for r in routers() if not asked.only or r.name in asked.only.split(",")]
    results: dict[str, list[dict[str, Any]]] = {r.name: [] for r in chosen} | {"direct": []}
    for number in range(asked.rounds):
        for router in [*chosen, None] if number % 2 == 0 else [None, *reversed(chosen)]:
            name = router.name if router else "direct"
            results[name].append(measure(router, asked.scenarios.split(","), asked.seconds, asked.realtime))
            print(f"round {number}: {name}: {results[name][-1].get('failed') or 'measured'}", flush=True)
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    (OUT / "table.md").write_text(table(results))
    (OUT / "plot.svg").write_text(plot(results))
    print(table(results))


if __name__ == "__main__":
    main()
