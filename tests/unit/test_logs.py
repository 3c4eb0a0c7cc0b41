"""Logs of a run, merged: order, choice, ends, and following. The files are written as the gateway writes them."""

import json
import os
import threading
import tracemalloc

import pytest
from click.testing import CliRunner

from disagg_launch import logs
from disagg_launch.commands.logs import logs as command
from disagg_launch.errors import BadInput
from disagg_launch.logs import Wanted, merged


def at(second, milli=0):
    return f"2026-01-01T00:00:{second:02d}.{milli:03d}Z"


def hours(second):
    return f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000Z"


@pytest.fixture
def run(tmp_path):
    """Three logs: an instance of two ranks with a traceback, one of a rank, the gateway's."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/ctx0.log").write_text(
        f"# ctx0 plan 0123456789ab start 1 at {at(1)}\n"
        f"[0] {at(2)} INFO loading\n"
        f"[1] {at(3)} Traceback (most recent call last):\n"
        f"[0] {at(3, 500)} INFO still loading\n"
        f'[1] {at(4)}   File "x.py", line 1, in main\n'
        f"[1] {at(5)} ValueError: no such model\n"
        f"[-] {at(6)} srun: error: node1: task 1: Exited with exit code 1\n"
    )
    (tmp_path / "logs/gen0.log").write_text(f"# gen0 plan 0123456789ab start 1 at {at(1, 1)}\n[0] {at(4, 1)} WARNING 1 GPU is slow\n")
    (tmp_path / "logs/gateway.log").write_text(f"{at(0)} plan 0123456789ab\n{at(7)} failed: ctx0 ended\n    more of it\n")
    return tmp_path


def said(run, **wanted):
    return [(one.name, one.text) for batch in merged(run, Wanted(**wanted)) for one in batch]


def test_all_logs_are_merged_by_the_time_of_arrival(run):
    stamps = [one.stamp for batch in merged(run, Wanted()) for one in batch]
    assert stamps == sorted(stamps) and len(stamps) == 12
    # a line without a stamp stays behind the one before it
    assert said(run)[-2:] == [("gateway", "failed: ctx0 ended"), ("gateway", "    more of it")]


def test_names_may_be_patterns(run):
    assert {name for name, _ in said(run, names=["g*"])} == {"gen0", "gateway"}
    with pytest.raises(BadInput, match="no log of ctx7; there are ctx0, gateway, gen0"):
        said(run, names=["ctx7", "gen0"])


def test_levels_take_a_traceback_as_a_whole_and_ranks_apart(run):
    assert [text for _, text in said(run, level="error")] == [
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in main',
        "ValueError: no such model",
        "srun: error: node1: task 1: Exited with exit code 1",
    ]
    assert ("gen0", "WARNING 1 GPU is slow") in said(run, level="warning")
    assert [text for _, text in said(run, ranks=["-"])] == ["srun: error: node1: task 1: Exited with exit code 1"]
    assert [text for _, text in said(run, names=["ctx0"], ranks=["0"])] == ["INFO loading", "INFO still loading"]


def test_the_last_lines_are_the_last_of_all_logs(run):
    everything = said(run)
    for count in range(14):
        assert said(run, last=count) == everything[max(0, len(everything) - count) :]
    assert said(run, last=1, level="error") == [("ctx0", "srun: error: node1: task 1: Exited with exit code 1")]
    assert said(run, last=2, level="warning") == said(run, level="warning")[-2:]


def test_since_a_time_or_before_the_newest_line(run):
    assert said(run, since=at(5))[0] == ("ctx0", "ValueError: no such model")
    assert logs.since(run, "2s") == at(5)
    assert logs.since(run, "2026-01-01T00:00:03Z") == at(3)
    with pytest.raises(BadInput, match="neither a duration"):
        logs.since(run, "yesterday")
    assert said(run, since=at(5), last=1) == said(run, last=1)
    for ages_ago in ("99999999999d", "9" * 400 + "d", "0001-01-01T00:00Z"):
        assert said(run, since=logs.since(run, ages_ago)) == said(run)


def test_since_and_last_do_not_depend_on_where_blocks_begin(tmp_path):
    """Some thousand lines of very different lengths, several in the same millisecond."""
    (tmp_path / "logs").mkdir()
    lines = [(hours(n), "x" * (n * 37 % 400)) for n in range(4000) for _ in range(n % 3)]
    (tmp_path / "logs/ctx0.log").write_text("".join(f"[0] {stamp} {text}\n" for stamp, text in lines))
    for n in (0, 1, 2, 1999, 2000, 3999):
        assert len(said(tmp_path, since=hours(n))) == sum(stamp >= hours(n) for stamp, _ in lines)
    for count in (1, 5, 700, len(lines), len(lines) + 1):
        assert [text for _, text in said(tmp_path, last=count)] == [text for _, text in lines[-count:]]


def test_long_logs_are_streamed(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in ("ctx0", "ctx1", "ctx2", "gen0"):
        (tmp_path / f"logs/{name}.log").write_text("".join(f"[0] {at(n // 1000 % 60, n % 1000)} {'x' * 200}\n" for n in range(10_000)))
    tracemalloc.start()
    assert sum(len(batch) for batch in merged(tmp_path, Wanted())) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(os.path.getsize(path) for path in (tmp_path / "logs").iterdir()) / 4


def test_following_begins_before_the_files_do_and_ends_with_the_run(tmp_path):
    """A run folder just rendered; a first log appears, is written in pieces, then a second."""
    (tmp_path / "plan.json").write_text(_plan())
    alive, found, more = [True], [], threading.Event()

    def reader():
        for batch in merged(tmp_path, Wanted(), lambda: alive[0]):
            found.extend((one.name, one.text) for one in batch)
            more.set()

    thread = threading.Thread(target=reader)
    thread.start()
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs/ctx0.log").open("a", buffering=1) as one, (tmp_path / "logs/gen0.log").open("w", buffering=1) as two:
        one.write(f"[0] {at(1)} first\n[0] {at(2)} half of")
        assert more.wait(20) and found == [("ctx0", "first")]
        more.clear()
        one.write(" a line\n")
        assert more.wait(20) and found[1:] == [("ctx0", "half of a line")]
        more.clear()
        one.truncate(0)  # as logrotate's copytruncate does
        one.write(f"[0] {at(3)} new\n")
        assert more.wait(20) and found[2:] == [("ctx0", "new")]
        two.write(f"[0] {at(4)} last words without an end")
        alive[0] = False
    thread.join(20)
    assert found[3:] == [("gen0", "last words without an end")]


def test_following_a_name_that_is_not_in_the_plan_is_refused_at_once(tmp_path):
    (tmp_path / "plan.json").write_text(_plan())
    with pytest.raises(BadInput, match=r"no log of ctx7; there are ctx0, gateway, gen0, router"):
        list(merged(tmp_path, Wanted(["ctx7"]), lambda: True))
    with pytest.raises(BadInput, match="no run folder"):
        list(merged(tmp_path / "nowhere", Wanted(), lambda: True))


def test_the_latest_run_is_meant_when_none_is_named(run, tmp_path_factory, monkeypatch):
    """As in `logs -f gen0`; a folder, or a job's id, in front of it is the run."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs/latest").symlink_to(run)
    monkeypatch.chdir(elsewhere)
    for words in (["gen0"], ["runs/latest", "gen0"], [str(run), "gen0"]):
        assert [line.split()[0] for line in CliRunner().invoke(command, words).output.splitlines()] == ["gen0", "gen0"], words
    assert {line.split()[0] for line in CliRunner().invoke(command, []).output.splitlines()} == {"ctx0", "gen0", "gateway"}
    assert "no log of gen7" in str(CliRunner().invoke(command, ["gen7"]).exception)


def test_the_command_prints_plain_lines_into_a_pipe_and_json_if_asked(run):
    got = CliRunner().invoke(command, [str(run), "gen0"])
    assert got.output.splitlines()[1] == f"    gen0 [0] {at(4, 1)} WARNING 1 GPU is slow"
    got = CliRunner().invoke(command, [str(run), "--json", "-n", "1", "--rank", "1"])
    assert json.loads(got.output) == {"instance": "ctx0", "rank": "1", "at": at(5), "level": "error", "text": "ValueError: no such model"}


def _plan():
    from disagg_launch import plan
    from disagg_launch.plan import Instance, Plan, Rank

    instances = [Instance(name, role, n, 1, (0,), 8001 + n) for n, (name, role) in enumerate((("ctx0", "context"), ("gen0", "generation")))]
    ranks = [Rank(n, one.name, one.role, 0, 0, 0, 0, n) for n, one in enumerate(instances)]
    return plan.to_json(Plan("test", 1, 2, tuple(instances), tuple(ranks)).sealed())
