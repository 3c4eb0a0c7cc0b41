"""The Grafana dashboard and the scrape configuration among the examples: every metric that is drawn exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import page, worker

from disagg_launch.plan import CONTEXT
from disagg_launch.router.metrics import Metrics
from disagg_launch.runtime import exposition

EXAMPLES = Path(__file__).parents[3] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana.json").read_text())
PANELS = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
QUERIES = [target["expr"] for one in PANELS for target in one["targets"]]
# what PromQL itself knows, and label names
WORDS = {"histogram_quantile", "sum", "rate", "increase", "time", "by", "le", "role", "cause", "stage", "state"}
STATUS: dict[str, Any] = {"name": "n", "digest": "d", "job": "", "state": "ready", "instances": [], "resting": [], "degraded": {}}


def exposed() -> dict[str, set[str]]:
    """Every name on the router's and the gateway's pages, with the labels of its samples."""
    metrics = Metrics()
    metrics.retried(CONTEXT, "timeout")
    router = page(workers=[worker("h:1", CONTEXT)]) + metrics.text([])
    instance = {"name": "ctx0", "role": CONTEXT, "stage": "healthy", "ended": "", "restarts": 0, "ranks": [{"rank": 0, "pid": 1}]}
    counts = {("ended", "ctx0"): 1, ("verdict", "failed"): 1, ("proof", "True"): 1}
    gateway = exposition.page({**STATUS, "instances": [instance]}, counts, 1.0, 1.0)
    out: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", router + gateway, re.M):
        out.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return out


def names(query: str) -> set[str]:
    """The metrics that a query speaks of."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b\d[\d.]*\b", "", query)
    return set(re.findall(r"[a-z_]+", bare)) - WORDS


@pytest.mark.parametrize("query", QUERIES)
def test_what_is_drawn_exists(query: str) -> None:
    there = exposed()
    [name] = names(query)
    assert name in there
    grouped = {label.strip() for found in re.findall(r"by \(([^)]*)\)", query) for label in found.split(",")}
    asked = {label for inside in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)=", inside)}
    assert grouped <= there[name]
    assert asked - {"deployment", "run"} <= there[name]
    assert {"deployment", "run"} <= asked


def test_legends_use_labels_that_are_there() -> None:
    there = exposed()
    for panel in PANELS:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert all(labels <= there[name] for name in names(target["expr"])), (panel["title"], labels)


def test_no_label_is_one_of_prometheus_own() -> None:
    assert not {"instance", "job"} & {label for labels in exposed().values() for label in labels}


def test_the_check_can_fail() -> None:
    assert names("sum(rate(no_such_total{run=~'x'}[1m]))") == {"no_such_total"}


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for one in DASHBOARD["panels"]:
        at = one["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells
    assert len({one["id"] for one in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_scrape_configuration_reads_what_the_gateway_writes() -> None:
    [job] = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())["scrape_configs"]
    [files] = job["file_sd_configs"]
    assert [Path(path).name for path in files["files"]] == [exposition.TARGETS]
