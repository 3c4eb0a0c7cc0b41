"""The gateway's page for Prometheus, read by Prometheus' own client library."""

import json
import stat

from prometheus_client.parser import text_string_to_metric_families

from disagg_launch.runtime import exposition
from disagg_launch.runtime.record import Record


def row(name, role="context", stage="healthy", ended="", restarts=0, ranks=({"rank": 0, "pid": 1},)):
    return {"name": name, "role": role, "stage": stage, "ended": ended, "restarts": restarts, "ranks": ranks}


def status(*rows, state="ready", name="laptop", resting=()):
    return {"name": name, "digest": "d1", "job": "", "state": state, "instances": rows, "resting": resting, "degraded": {}}


def samples(page):
    """{(name, labels as sorted pairs): value} of every sample on the page."""
    families = list(text_string_to_metric_families(page))
    assert all(family.documentation and family.type in ("gauge", "counter") for family in families)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_instances_are_counted_by_stage_and_shown_one_by_one():
    rows = [
        row("ctx0"),
        row("ctx1", restarts=2, stage="started", ranks=[{"rank": 1}]),
        row("ctx2", ended="exit code 3"),
        row("gen0", "generation"),
    ]
    read = samples(exposition.page(status(*rows, resting=["gen0"]), {}, 100.0, 0.0))
    counted = {labels: value for (name, labels), value in read.items() if name == "disagg_instances"}
    assert counted == {
        (("role", "context"), ("stage", "healthy")): 1,
        (("role", "context"), ("stage", "started")): 1,
        (("role", "context"), ("stage", "ended")): 1,
        (("role", "generation"), ("stage", "resting")): 1,
    }
    assert read["disagg_instance_restarts_total", (("instance_name", "ctx1"), ("role", "context"))] == 2
    assert [read["disagg_instance_healthy", (("instance_name", n), ("role", "context"))] for n in ("ctx0", "ctx1", "ctx2")] == [1, 0, 0]
    assert (read["disagg_ranks", (("state", "reported"),)], read["disagg_ranks", (("state", "missing"),)]) == (3, 1)


def test_what_happened_is_counted_by_what_it_is_about():
    counts = {("ended", "ctx1"): 3, ("verdict", "failed"): 1, ("proof", "True"): 4, ("proof", "False"): 1, ("stage", "ctx0"): 9}
    read = samples(exposition.page(status(row("ctx0")), counts, 100.0, 0.0))
    assert read["disagg_ends_total", (("instance_name", "ctx1"),)] == 3
    assert read["disagg_verdicts_total", (("state", "failed"),)] == 1
    assert (read["disagg_proofs_total", (("ok", "True"),)], read["disagg_proofs_total", (("ok", "False"),)]) == (4, 1)


def test_what_has_not_happened_is_0_so_that_the_first_time_is_seen_to_be_one_more():
    read = samples(exposition.page(status(row("ctx0")), {}, 100.0, 0.0))
    assert read["disagg_ends_total", (("instance_name", "ctx0"),)] == read["disagg_ends_total", (("instance_name", "router"),)] == 0
    assert read["disagg_verdicts_total", (("state", "failed"),)] == read["disagg_proofs_total", (("ok", "False"),)] == 0


def test_ready_time_is_there_once_it_is_known():
    before = samples(exposition.page(status(state="starting"), {}, 100.0, 0.0))
    after = samples(exposition.page(status(), {}, 100.5, 3.25))
    assert ("disagg_ready_seconds", ()) not in before
    assert (after["disagg_ready_seconds", ()], after["disagg_begin_time_seconds", ()]) == (3.25, 100.5)
    assert (before["disagg_state", (("state", "starting"),)], before["disagg_state", (("state", "ready"),)]) == (1, 0)


def test_names_are_quoted():
    nasty = 'a"b\\c\nd'
    read = samples(exposition.page(status(name=nasty), {}, 100.0, 0.0))
    assert ("disagg_info", (("digest", "d1"), ("name", nasty), ("slurm_job", ""))) in read


def test_the_routers_page_is_on_its_port_or_on_one_of_its_own_in_plain_http():
    router = Record("router", "h", 8000, "logs/router.log")
    assert router.at("/metrics") == "http://h:8000/metrics"
    router.scheme = "https"
    assert (router.at("/ui"), router.at(":7999/metrics")) == ("https://h:8000/ui", "http://h:7999/metrics")


def test_targets_are_in_the_form_of_prometheus_file_discovery(tmp_path):
    exposition.write_targets(
        str(tmp_path), {"gateway": "http://10.0.0.1:5/metrics", "router": "http://h:8000/prometheus/metrics"}, "laptop"
    )
    path = tmp_path / "prometheus.json"
    gateway, router = json.loads(path.read_text())
    assert gateway["targets"] == ["10.0.0.1:5"]
    assert router["targets"] == ["h:8000"]
    assert router["labels"] == {"__metrics_path__": "/prometheus/metrics", "deployment": "laptop", "run": tmp_path.name, "part": "router"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    exposition.withdraw(str(tmp_path))
    exposition.withdraw(str(tmp_path))
    assert not path.exists()
