"""`layout write`, `verify` and `forms` as a user calls them."""

import subprocess
import sys

import pytest

from disagg_launch.layouts.table import FORMS

TOPOLOGY = """
model: /models/small
context_servers: {num_instances: 2, tensor_parallel_size: 2}
generation_servers: {num_instances: 1, tensor_parallel_size: 4}
engine: {name: reference}
cluster: {gpus_per_node: 4}
"""


def call(*args):
    return subprocess.run(
        [sys.executable, "-c", "from disagg_launch.cli import main; main()", "layout", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def topology(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(TOPOLOGY)
    return path


def test_all_forms_are_written_and_agree(topology, tmp_path):
    out = tmp_path / "out"
    assert call("write", topology, "--out", out, "--hosts", "gpu[01-02]").returncode == 0
    assert {file.name for file in out.iterdir()} == {"plan.json", *(form.file for form in FORMS.values())}
    done = call("verify", out)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(FORMS)
    assert (out / "hosts").read_text() == "gpu01\ngpu02\n"


def test_the_first_disagreement_is_an_error(topology, tmp_path):
    out = tmp_path / "out"
    call("write", topology, "--out", out)
    (out / "machinefile").write_text("node0:5\nnode1:3\n")
    done = call("verify", out)
    assert done.returncode == 2
    assert "machinefile: disagrees with plan" in done.stderr
    assert "says     rank=4 host=node0\n  plan has rank=4 host=node1" in done.stderr
    done = call("verify", out / "hostfile", "--plan", topology)
    assert (done.returncode, done.stdout) == (0, f"{out / 'hostfile'}: agrees\n")


def test_one_form_is_printed(topology):
    done = call("write", topology, "--form", "machinefile", "--hosts", "a,b")
    assert (done.returncode, done.stdout) == (0, "a:4\nb:4\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--form", "nofile"], "'nofile' found; one of hosts,"),
        (["--form", "gpus", "--hosts", "a"], "1 hosts found, 2 needed"),
        (["--form", "gpus", "--hosts", "a,a"], "a is there twice"),
        ([], "--out FOLDER is needed"),
    ],
)
def test_bad_use(topology, args, text):
    done = call("write", topology, *args)
    assert done.returncode == 2
    assert text in done.stderr


def test_a_file_of_another_name_is_bad_use(topology, tmp_path):
    other = tmp_path / "mystery"
    other.write_text("")
    done = call("verify", other, "--plan", topology)
    assert done.returncode == 2
    assert "file name of no form" in done.stderr
