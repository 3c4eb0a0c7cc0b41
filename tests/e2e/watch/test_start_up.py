"""The start-up trace of a real deployment, in every form."""

from __future__ import annotations

import json
from pathlib import Path

from watched import Watched


def test_every_phase_of_a_real_start_up_is_there(deployed: Watched, tmp_path: Path) -> None:
    chrome, svg = tmp_path / "trace.json", tmp_path / "trace.svg"
    text = deployed.cli("trace", str(deployed.run), "--chrome", str(chrome), "--svg", str(svg))
    made = json.loads(deployed.cli("trace", str(deployed.run), "--json"))
    names = [phase["name"] for phase in made["phases"]]
    assert [name for name in names if name != "proved"] == [
        "gateway begun", "steps started", "ranks up", "healthy", "router open", "first token",
    ]  # fmt: skip
    assert [phase["at_s"] for phase in made["phases"]] == sorted(phase["at_s"] for phase in made["phases"])
    assert all(name in text for name in names)
    assert 0 < made["overhead_s"] < next(phase["at_s"] for phase in made["phases"] if phase["name"] == "router open")
    assert {rank["rank"] for one in made["instances"] for rank in one["ranks"]} == {0, 1, 2, 3}
    spans = [one for one in json.loads(chrome.read_text())["traceEvents"] if one["ph"] == "X"]
    assert {one["name"] for one in spans} >= {"healthy", "first token", "to its role"}
    assert svg.read_text().startswith("<svg ")
