"""Every example is a topology without a complaint, with the line that tells an editor its schema."""

from __future__ import annotations

import pathlib

import jsonschema
import pytest
import yaml

from disagg_launch import lint, spec
from disagg_launch.place import place
from disagg_launch.render import render
from disagg_launch.spec.reference import markdown
from disagg_launch.spec.schema import schema, schema_text

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_schema_file_is_up_to_date():
    assert (EXAMPLES / "topology.schema.json").read_text(encoding="utf-8") == schema_text()


def test_page_about_every_key_is_up_to_date():
    assert (EXAMPLES.parent / "docs" / "topology.md").read_text(encoding="utf-8") == markdown()


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_example(path):
    hint = path.read_text(encoding="utf-8").partition("\n")[0]
    assert hint.startswith("# yaml-language-server: $schema=")
    assert (path.parent / hint.partition("=")[2]).resolve() == EXAMPLES / "topology.schema.json"
    assert list(VALIDATOR.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))) == []
    loaded = spec.load(path)
    assert loaded.warnings == ()
    assert lint.check(loaded, place(loaded)) == ()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_example_renders(path):
    loaded = spec.load(path)
    backend = "mpirun" if loaded.engine.launch == "mpi-worker" else "slurm" if "slurm" in loaded.model_fields_set else "local"
    files = {file.path: file.text for file in render(loaded, place(loaded), backend, "python3")}
    assert files["spec.yaml"] == path.read_text(encoding="utf-8")
    assert {"plan.json", "launch.json", "runtime.pyz"} <= set(files)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": "8000"},
        {"cluster": {"nodez": 1}},
        {"engine": {"name": "referense"}},
        {"context_servers": {"num_instances": -1}},
        {"lint": {"ignore": ["12"]}},
        {"env": {"A": True}},
    ],
)
def test_schema_refuses_what_load_refuses(wrong):
    assert list(VALIDATOR.iter_errors(wrong))
    with pytest.raises(spec.BadTopology) as caught:
        spec.loads(yaml.safe_dump(wrong))
    assert next(iter(wrong)) in str(caught.value)
