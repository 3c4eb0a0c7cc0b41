"""`lint` and `schema` as a user calls them."""

from __future__ import annotations

import json
import pathlib

import pytest
from click.testing import CliRunner

from disagg_launch.commands.lint import lint, schema
from disagg_launch.errors import DoesNotFit

CASES = pathlib.Path(__file__).parent / "cases"


def test_errors_are_printed_and_exit_with_2():
    got = CliRunner().invoke(lint, [str(CASES / "DL011-bad.yaml")])
    assert got.exit_code == 2
    assert got.output.startswith(f"{CASES}/DL011-bad.yaml:6:39: ")
    assert got.output.count("\n") == 1


def test_warnings_are_printed_and_exit_with_0():
    got = CliRunner().invoke(lint, [str(CASES / "DL003-bad.yaml")])
    assert got.exit_code == 0
    assert "warning: port: found 40000" in got.output


def test_nothing_wrong_prints_nothing():
    got = CliRunner().invoke(lint, [str(CASES / "DL003-good.yaml")])
    assert (got.exit_code, got.output) == (0, "")


def test_json_holds_bad_files_too(tmp_path):
    (tmp_path / "t.yaml").write_text("port: x\ncluster: {nodez: 1}\n")
    got = CliRunner().invoke(lint, [str(tmp_path / "t.yaml"), "--json"])
    rows = json.loads(got.output)
    assert got.exit_code == 2
    assert {"file", "line", "column", "key", "text", "severity", "number", "given"} == set(rows[0])
    assert {"port", "cluster.nodez"} <= {row["key"] for row in rows}


def test_what_does_not_fit_is_refused_as_by_plan(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "model: m\nengine: {name: reference}\nport: 40000\ncontext_servers: {tensor_parallel_size: 2}\n"
        "generation_servers: {tensor_parallel_size: 4}\ncluster: {nodes: 1, gpus_per_node: 4}\n"
    )
    got = CliRunner().invoke(lint, [str(tmp_path / "t.yaml")])
    assert isinstance(got.exception, DoesNotFit)
    assert "DL003" in got.output


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["--explain", "DL012"], 0, "fix: Set the same KV dtype"),
    (["--explain", "DL999"], 2, "there is no rule DL999"),
    (["--table"], 0, "| DL001 | error |"),
    ([], 2, "Missing argument"),
])  # fmt: skip
def test_words_about_rules(arguments, code, said):
    got = CliRunner().invoke(lint, arguments)
    assert got.exit_code == code
    assert said in got.output


def test_schema_is_json():
    assert json.loads(CliRunner().invoke(schema).output)["title"] == "disagg-launch topology"
