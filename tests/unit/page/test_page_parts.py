"""The page's parts by themselves: who is let in, what a log's end is, what a start-up was, and that its files keep the policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from disagg_launch.layouts.colours import COOL, WARM
from disagg_launch.page.doorman import Doorman
from disagg_launch.page.series import Series
from disagg_launch.page.site import STATIC
from disagg_launch.page.tail import FIRST, piece
from disagg_launch.page.timeline import Timeline
from disagg_launch.router.exchange import Refused
from disagg_launch.router.metrics import Metrics


def status(doorman: Doorman, **headers: str) -> int:
    """200 if one who sends these headers may look, else the status of the refusal."""
    try:
        doorman.admit({name.encode(): value.encode() for name, value in headers.items()})
    except Refused as no:
        return no.status
    return 200


def test_looking_is_free_on_this_machine_only_under_its_own_name(tmp_path: Path) -> None:
    doorman = Doorman("localhost", str(tmp_path / "ui-token"), "")
    for host in ("localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000", "LOCALHOST:8000"):
        assert status(doorman, host=host) == 200, host
    for host in ("evil.example", "127.evil.example:8000", "localhost.evil.example", "", "[::2]:80", "10.0.0.1"):
        assert status(doorman, host=host) == 404, host
    assert not (tmp_path / "ui-token").exists()


def test_elsewhere_looking_takes_either_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("to-act\n")
    path = tmp_path / "state" / "ui-token"
    doorman = Doorman("0.0.0.0", str(path), str(tmp_path / "token"))
    token = path.read_text().strip()
    assert (path.stat().st_mode & 0o777, len(token) >= 32, [p.name for p in path.parent.iterdir()]) == (0o600, True, ["ui-token"])
    assert status(doorman, host="localhost:8000") == 401
    assert status(doorman, host="node1", authorization=f"Bearer {token}x") == 401
    assert status(doorman, host="node1", authorization=f"Bearer {token}") == 200
    assert status(doorman, host="node1", authorization="Bearer to-act") == 200
    Doorman("0.0.0.0", str(path), "")  # the next life of the router
    assert path.read_text().strip() == token


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({b"host": b"node1:8000"}, True),
        ({b"host": b"node1:8000", b"origin": b"http://node1:8000"}, True),
        ({b"host": b"node1:8000", b"origin": b"https://node1:8000", b"sec-fetch-site": b"same-origin"}, True),
        ({b"host": b"node1:8000", b"origin": b"http://node1:9000"}, False),
        ({b"host": b"node1:8000", b"origin": b"null"}, False),
        ({b"host": b"node1:8000", b"sec-fetch-site": b"same-site"}, False),
        ({b"host": b"node1:8000", b"sec-fetch-site": b"cross-site"}, False),
    ],
)
def test_deeds_come_from_this_page_only(headers: dict[bytes, bytes], ours: bool) -> None:
    doorman = Doorman("localhost", "", "")
    if ours:
        doorman.same_origin(headers)
    else:
        with pytest.raises(Refused) as refused:
            doorman.same_origin(headers)
        assert refused.value.status == 403


def test_a_log_comes_in_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "gen0.log"
    log.write_bytes(b"one\ntwo\nhal")
    first = piece(tmp_path, "gen0", -1)
    assert first == {"lines": ["one", "two"], "next": 8}
    assert piece(tmp_path, "gen0", 8) == {"lines": [], "next": 8}
    log.write_bytes(b"one\ntwo\nhalf\n\xff<b>\n")
    assert piece(tmp_path, "gen0", 8) == {"lines": ["half", "\ufffd<b>"], "next": 18}
    log.write_bytes(b"new\n")
    assert piece(tmp_path, "gen0", 18) == {"lines": ["new"], "next": 4}


def test_a_long_log_is_shown_from_near_its_end(tmp_path: Path) -> None:
    (tmp_path / "gen0.log").write_text("".join(f"{n:07d}\n" for n in range(10_000)))
    found = piece(tmp_path, "gen0", -1)
    assert (found["lines"][-1], found["next"]) == ("0009999", 80_000)
    assert FIRST // 8 - 1 <= len(found["lines"]) <= FIRST // 8
    assert all(len(line) == 7 for line in found["lines"])


@pytest.mark.parametrize("name", ["../state/token", "..", "", ".hidden", "a/b", "no\0", "nobody"])
def test_nothing_but_a_log_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token.log").write_text("secret\n")
    (tmp_path / "logs" / ".hidden.log").write_text("secret\n")
    assert piece(tmp_path / "logs", name, -1) == {"lines": [], "next": 0}


def test_a_start_up_is_told_by_stages_of_first_lives() -> None:
    def stage(name: str, at: float, stage: str, life: int = 1, **more: object) -> dict[str, object]:
        return {"event": "stage", "instance": name, "at": at, "stage": stage, "life": life, **more}

    timeline = Timeline()
    timeline.add([{"event": "begun", "at": 1.0}, stage("old", 2, "started")])
    timeline.add([{"event": "begun", "at": 100.0}, stage("ctx0", 101, "started"), stage("ctx0", 102, "role taken", rank=0)])
    timeline.add([stage("ctx0", 103, "loading", percent=1), stage("ctx0", 104, "loading", percent=90), stage("ctx0", 105, "healthy")])
    timeline.add(
        [{"event": "router", "at": 106.0, "stage": "open"}, stage("ctx0", 107, "started", 2), {"event": "stage"}, stage("router", 9, "x")]
    )
    row = {"name": "ctx0", "stages": [("scheduled", 100), ("started", 101), ("loading", 103), ("healthy", 105)], "done": 105}
    assert timeline.as_dict() == {"began_at": 100, "opened_at": 106, "rows": [row]}


def test_curves_are_rates_over_a_few_samples() -> None:
    metrics, series = Metrics(), Series()
    for at in range(10):
        series.sample(1000.0 + at, metrics)
        metrics.counted["total_requests"] += 3
        metrics.tokens += 30
        if at < 3:
            metrics.ttft.observe(0.05)
    found = series.since(1004.0)
    assert found["at"] == [1005, 1006, 1007, 1008, 1009]
    assert (found["requests_per_s"], found["tokens_per_s"]) == ([3.0] * 5, [30.0] * 5)
    assert [value is not None and 0.032 < value < 0.064 for value in found["ttft_s"]] == [True, True, True, False, False]
    assert found["in_flight"] == [0] * 5


def test_the_page_has_the_colours_of_the_pictures() -> None:
    css = (STATIC / "colours.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    for kind, pairs in (("c", COOL), ("g", WARM)):
        for i, pair in enumerate(pairs):
            assert f"--{kind}{i}: {pair[0]};" in light
            assert f"--{kind}{i}: {pair[1]};" in dark


def test_static_files_keep_the_policy() -> None:
    """Nothing inline, nothing from elsewhere, nothing that turns text into HTML or code."""
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|javascript:", page) == []
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?:|//[a-z]+\.[a-z]+/|@import", re.sub(r"\"http://\"", "", text)) == [], path.name
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text) == [], path.name
