"""The catalogue of likely causes: each entry is found by its own excerpt, and by nothing that healthy programs say."""

import pathlib
import re
import subprocess
import sys

import pytest
from captured_logs import captured_logs

from disagg_launch import zipapp
from disagg_launch.runtime import causes
from disagg_launch.runtime.causes import CAPTURED, END, JOB, LOG, PLACES

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parents[2] / "docs"
ENTRIES = causes.catalogue()
BY_MADE = {log.made: log.text for log in captured_logs()}


CASES = [pytest.param(one, excerpt, id=f"{one.number}-{one.name}-{n}") for one in ENTRIES for n, excerpt in enumerate(one.excerpts)]


@pytest.mark.parametrize(("one", "excerpt"), CASES)
def test_each_excerpt_has_its_own_cause_and_no_earlier_one(one, excerpt):
    assert causes.first(causes.fits(text, where) for text in excerpt.lines for where in one.where) == one
    # and in the midst of what is said around it
    if LOG in one.where and causes.explain(excerpt.lines):
        around = ["INFO 02-12 18:37:28 loading weights", *excerpt.lines, "[rank0]: Connection reset by peer"]
        assert causes.explain(around) == one or one.consequence


@pytest.mark.parametrize(("one", "excerpt"), CASES)
def test_each_excerpt_says_where_it_comes_from(one, excerpt):
    if not excerpt.source.startswith(CAPTURED):
        assert re.match(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull|blob)/", excerpt.source)
        return
    log = BY_MADE[excerpt.source[len(CAPTURED) :]]
    assert excerpt.lines and all(text in log for text in excerpt.lines)


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: f"{one.number}-{one.name}")
def test_every_entry_is_whole(one):
    assert one.cause and one.remedy and one.said_by and one.patterns and one.excerpts
    assert set(one.where) <= set(PLACES)
    assert not one.remedy.endswith(".")


def test_numbers_and_names_are_used_once():
    for what in ("number", "name"):
        names = [getattr(one, what) for one in ENTRIES]
        assert len(names) == len(set(names))


def test_what_only_follows_on_another_failure_comes_last():
    order = [one.consequence for one in ENTRIES]
    assert order == sorted(order)


def test_a_remedy_names_keys_that_there_are():
    page = (DOCS / "topology.md").read_text()
    sections = {"slurm", "cluster", "mpi", "engine", "readiness", "restart"}
    for one in ENTRIES:
        for section, key in re.findall(r"\b(\w+)\.(\w+)", one.remedy):
            assert section not in sections or f"`{key}`" in page, (one.number, section, key)


def test_the_needle_is_in_everything_that_the_pattern_fits():
    texts = [text for one in ENTRIES for excerpt in one.excerpts for text in excerpt.lines]
    for pattern in (p for one in ENTRIES for p in one.patterns):
        assert all(causes.needle(pattern) in text for text in texts if re.search(pattern, text)), pattern


def test_needles():
    assert causes.needle(r"UCX +ERROR") == "ERROR"
    assert causes.needle(r"No module named") == "No module named"
    assert causes.needle(r"a(?:b|c)defg\.h?ij") == "defg."
    assert causes.needle(r"one|two") == ""


@pytest.mark.parametrize("path", sorted((HERE / "healthy").glob("*.log")), ids=lambda path: path.stem)
def test_healthy_logs_have_no_cause(path):
    for text in path.read_text().splitlines():
        cause = causes.fits(text)
        assert cause is None, (cause.number, cause.name, text)


@pytest.mark.parametrize("end", ["exit code 1", "rank 0 on node1: exit code 3", "2 of 2 instances are ready", "SIGINT received"])
def test_no_cause_is_better_than_a_wrong_one(end):
    assert causes.explain(["all is well", "It answered after 137 ms"], end) is None


def test_levels_decide():
    # an INFO line may quote an error, and a warning is not a failure
    quoted = "libnccl-net.so: cannot open shared object file: No such file or directory"
    assert causes.fits(f"node1:24:24 [0] NCCL INFO NET/Plugin : dlerror={quoted}") is None
    assert causes.fits(f"WARNING 10-10 10:22:58 _custom_ops.py:18] Failed to import: {quoted}") is None
    assert causes.fits(f"ImportError: {quoted}").name == "library-missing"


def test_the_particular_goes_before_the_general_whatever_comes_first():
    lines = ["FileNotFoundError: [Errno 2] No such file or directory: '/tmp/x.lock'", "torch.OutOfMemoryError: CUDA out of memory."]
    assert causes.explain(lines).name == causes.explain(lines[::-1]).name == "gpu-memory"


def test_ends_and_jobs_have_causes_too():
    assert causes.fits("rank 0 on node1: signal SIGKILL", END).name == "killed"
    assert causes.fits("step world ended with gen0", END).consequence
    assert causes.fits("job 7: pending (PartitionTimeLimit), expected start not known yet", JOB).name == "slurm-time"
    assert causes.fits("job 7: running since 2026-01-01T00:00:00", JOB) is None


def test_the_page_is_that_of_the_catalogue():
    assert (DOCS / "causes.md").read_text() == causes.table()


def test_the_catalogue_travels(tmp_path):
    (tmp_path / "runtime.pyz").write_bytes(zipapp.bundle())
    code = "import sys; sys.path.insert(0, sys.argv[1])\nfrom disagg_launch.runtime import causes\nprint(len(causes.catalogue()))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(tmp_path / "runtime.pyz")], capture_output=True, text=True)
    assert done.stdout == f"{len(ENTRIES)}\n", done.stderr
