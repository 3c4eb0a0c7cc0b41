"""`top` over a real deployment: in a real terminal, and when piped."""

from __future__ import annotations

import json
import re
import subprocess

import pydantic
from watched import CLI, Terminal, Watched

from disagg_launch.watch.shape import Snapshot


def test_a_terminal_shows_it_and_keys_work(deployed: Watched) -> None:
    terminal = Terminal("top", str(deployed.run), "--interval", "0.3")
    first = terminal.until(lambda text: text if "gen0       routed" in text and "in flight 0" in text else "")
    assert re.search(r"^disagg  ready  http://localhost:\d+  plan [0-9a-f]{12}  up ", first)
    assert "node 0 [CCGG....]" in first and "router: the front door is open" in first
    terminal.press("h")
    terminal.until(lambda text: "-- keys --" in text)
    terminal.press("i")
    terminal.until(lambda text: "> ctx0" in text)
    terminal.press("\x1b[B")
    terminal.until(lambda text: "> ctx1" in text)
    terminal.press("l")
    terminal.until(lambda text: "-- log of ctx1 --" in text and "serving as context" in text)
    deployed.ask()
    terminal.until(lambda text: re.search(r"TTFT .*s / .*s  ITL", text))
    terminal.press("q")
    assert terminal.left() == 0
    assert deployed.process.poll() is None


def test_a_restart_from_the_view_is_asked_for_carried_out_and_reported(deployed: Watched) -> None:
    terminal = Terminal("top", str(deployed.run), "--interval", "0.3")
    terminal.until(lambda text: "> ctx0" in text)
    terminal.press("r")
    terminal.until(lambda text: "restart ctx0? y to" in text)
    terminal.press("y")
    terminal.until(lambda text: "ctx0 is back" in text)
    terminal.press("q")
    assert terminal.left() == 0
    started = [one for one in deployed.events() if one["event"] == "stage" and one["instance"] == "ctx0" and one["stage"] == "healthy"]
    assert len(started) == 2
    deployed.ask()


def test_ctrl_c_leaves_and_the_terminal_is_as_it_was(deployed: Watched) -> None:
    terminal = Terminal("top", str(deployed.run))
    terminal.until(lambda text: "> ctx0" in text)
    terminal.press("\x03")
    assert terminal.left() == 130
    assert deployed.process.poll() is None


def test_piped_it_prints_a_block_for_each_look(deployed: Watched) -> None:
    argv = [*CLI, "top", str(deployed.run), "--interval", "0.3"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        blocks = [[process.stdout.readline() for _ in range(5)] for _ in range(2)]
        process.terminate()
    for head, router, *instances in blocks:
        assert re.match(r"\S+Z disagg plan [0-9a-f]{12}: ready, http://localhost:\d+: 3 routed\n", head)
        assert re.match(r"  router in_flight=0 queued=0 requests=\d+ ", router)
        assert [line.split()[:2] for line in instances] == [[name, "stage=routed"] for name in ("ctx0", "ctx1", "gen0")]
    assert "requests_per_s" not in blocks[0][1] and "requests_per_s" in blocks[1][1]


def test_json_is_one_snapshot_a_line(deployed: Watched) -> None:
    shot = json.loads(deployed.cli("top", str(deployed.run), "--once", "--json"))
    pydantic.TypeAdapter(Snapshot).validate_python(shot)
    assert shot["state"] == "ready" and shot["answers"] and shot["ready_s"] > 0
    assert shot["router"]["tokens"] > 0 and shot["router"]["first_token_at"] > shot["began_at"] + shot["ready_s"]
    assert [one["worker_state"] for one in shot["instances"]] == ["ready"] * 3
    assert all(rank["pid"] > 0 and rank["host"] for one in shot["instances"] for rank in one["ranks"])
    assert all(one["since_s"] > 0 for one in shot["instances"])
