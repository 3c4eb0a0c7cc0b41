"""`--set KEY=VALUE`: as if the file had been edited, with complaints that name the option, and a run folder that knows it."""

from __future__ import annotations

import copy
import itertools
import pathlib
import shlex
import subprocess
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from disagg_launch import cli, place, render, spec
from disagg_launch.errors import BadInput

FILES = pathlib.Path(__file__).parents[1] / "importers" / "files"
SMALL = """\
# a comment
model: m
engine: {name: reference}
cluster: &cluster {nodes: 2, gpus_per_node: 4}
context_servers: &servers
  num_instances: 2
  env: {A: one}
generation_servers:
  <<: *servers
  num_instances: 1
"""
PATHS = [
    ("port",), ("name",), ("max_batch_size",), ("cluster", "nodes"), ("cluster", "policy"), ("cluster", "exclude", "nodes", 0),
    ("cluster", "exclude", "gpus", 1), ("context_servers", "num_instances"), ("context_servers", "env", "A"), ("generation_servers", "env"),
    ("generation_servers", "max_batch_size"), ("generation_servers", "router", "type"), ("router", "options"), ("restart", "on_failure"),
]  # fmt: skip
scalars = (
    st.none() | st.booleans() | st.integers(0, 9) | st.floats(0, 9) | st.sampled_from(["pack", "restart", "a:1", "1:00:00", "yes", ""])
)
words = st.text(max_size=8)
values = (
    scalars | words | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from(["A", "env", "nodes"]), scalars | words, max_size=2)
)


def option(path: tuple[Any, ...], value: Any) -> str:
    key = "".join(f"[{part}]" if path[i - 1 : i] == ("nodes",) else f".{part}" for i, part in enumerate(path))
    return (
        key[1:] + "=" + yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True).removesuffix("...\n").rstrip("\n")
    )


def edit(values: Any, path: tuple[Any, ...], value: Any) -> None:
    """What an editor would do."""
    here = values
    for part, following in itertools.pairwise(path):
        if here.get(part) is None:
            here[part] = [] if following == 0 else {}
        here = here[part]
    if isinstance(here, list):
        here[path[-1] : path[-1] + 1] = [value]
    else:
        here[path[-1]] = value


def outcome(text: str, options: tuple[str, ...] = ()) -> Any:
    """What becomes of a text: the topology, or what is wrong with which key."""
    try:
        return spec.loads(text, "t.yaml", options).model_dump(exclude={"warnings"})
    except spec.BadTopology as bad:
        return {(one.key, one.severity) for one in bad.complaints}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), values), max_size=4))
@example(
    [
        (("cluster", "exclude", "nodes", 0), 1),
        (("cluster", "exclude", "gpus", 1), [0]),
        (("generation_servers", "env"), {"A": "\u2028\n x"}),
    ]
)
@example([(("context_servers", "num_instances"), 7), (("cluster", "nodes"), None), (("context_servers", "env", "A"), " - #: é\t")])
def test_what_is_set_is_what_an_edited_file_says(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    options = tuple(itertools.starmap(option, changes))
    edited = yaml.safe_load(SMALL)
    edited["generation_servers"] = copy.deepcopy(edited["generation_servers"])
    for path, value in changes:
        edit(edited, path, copy.deepcopy(value))
    got = outcome(SMALL, options)
    assert got == outcome(yaml.safe_dump(edited))
    if isinstance(got, dict):
        text = spec.loads(SMALL, "t.yaml", options).source.text
        again = spec.loads(text, "runs/t/spec.yaml")
        assert again.model_dump(exclude={"warnings"}) == got
        assert again.source.text == text


def test_values_are_carried_as_written() -> None:
    got = spec.loads(SMALL, options=("env.B=010", "env.NO=1.10", "env.C=0x1f", r"env.a\.b=x=y", "slurm.time=1:30:00"))
    for again in (got, spec.loads(got.source.text)):
        assert again.env == {"B": "010", "NO": "1.10", "C": "0x1f", "a.b": "x=y"}
        assert again.slurm.time == "1:30:00"


def test_what_an_alias_stands_for_elsewhere_stays() -> None:
    got = spec.loads(SMALL, options=("context_servers.env.A=two", "generation_servers.env.B=three"))
    for again in (got, spec.loads(got.source.text)):
        assert again.context_servers.env == {"A": "two"}
        assert again.generation_servers.env == {"A": "one", "B": "three"}


def test_the_last_of_two_wins() -> None:
    got = spec.loads(SMALL, options=("cluster.nodes=3", "cluster={nodes: 4}", "cluster.gpus_per_node=2"))
    assert (got.cluster.nodes, got.cluster.gpus_per_node) == (4, 2)


def test_a_file_of_another_tool_is_changed_in_our_form() -> None:
    text = (FILES / "trtllm-slurm.yaml").read_text()
    got = spec.loads(text, "config.yaml", ("context_servers.num_instances=3", "slurm.partition=other"))
    assert (got.context_servers.num_instances, got.slurm.partition) == (3, "other")
    again = spec.loads(got.source.text)
    assert again.model_dump(exclude={"warnings"}) == got.model_dump(exclude={"warnings"})
    assert got.source.at(("model",)) == spec.loads(text, "config.yaml").source.at(("model",))
    assert str(got.source.at(("slurm", "partition"))) == "--set slurm.partition=other"


WRONG = [
    "context.num_instances=4", "generation_servers.num_instance=2", "context_servers.max_bach_size=8", "cluster.nodse=2", "port=80a0",
    "cluster.policy=apart", "disagg_cluster.cluster_name=x", "cluster.nodes.x=2", "cluster.exclude.nodes[1]=0", "cluster[0]=1",
    "generation_servers.max_batch_size=8", "max_batch_size=4", "model", "a..b=1", "=1", "name=a: b", "name=[a", "name=1\nport: 2",
    "env={A: 1, A: 2}", "name=!!python/name:os.system x", "model='two words'", "mpi.hosts=\x1b[31m", ".".join("a" * 50) + "=1",
    "port=\udc80", "name=*nobody", "restart." + "on_failure" * 25 + "=1",
]  # fmt: skip


def test_all_that_is_wrong_is_said_at_once_and_names_the_option(
    tmp_path: pathlib.Path, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("t.yaml").write_text(SMALL + "zonk: 1\nport: x\nname: y z\n")
    with pytest.raises(spec.BadTopology) as caught:
        spec.load("t.yaml", WRONG)
    assert [line for line in str(caught.value).splitlines() if not line.isprintable() or len(line) > 600] == []
    golden("spec/set.txt", str(caught.value) + "\n")


def test_a_tree_of_merges_is_looked_through_once() -> None:
    merges = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
    with pytest.raises(spec.BadTopology, match="more than"):
        spec.loads(merges, "t.yaml", ("a11.zonk=1",))


def commands(group: Any = cli.root, name: str = "") -> list[tuple[str, click.Command]]:
    """Every command with its whole name."""
    context = click.Context(group)
    found = [(f"{name} {one}".strip(), group.get_command(context, one)) for one in group.list_commands(context)]
    return [pair for one, it in found for pair in (commands(it, one) if isinstance(it, click.Group) else [(one, it)])]


def test_every_command_that_reads_a_topology_file_has_the_option() -> None:
    those = {name for name, one in commands() if any(p.name == "sets" for p in one.params)}
    named = {
        name
        for name, one in commands()
        for p in one.params
        if isinstance(p, click.Argument) and "SPEC" in p.make_metavar(click.Context(one))
    }
    assert named <= those
    assert those - named == {"diff", "layout write", "layout verify"}  # they read a plan too


@pytest.mark.parametrize("backend", ["local", "mpirun", "slurm"])
def test_scripts_and_the_run_folder_say_how_they_were_made(backend: str, tmp_path: pathlib.Path) -> None:
    options = ("context_servers.num_instances=1", 'env.A="it\'s\\n$(touch pwned)\\n#SBATCH --wrap=x"')
    got = spec.loads(SMALL, "my file.yaml", options)
    files = render.render(got, place.place(got), backend, "python3")
    render.write(files, tmp_path / "run")
    head, *_ = (tmp_path / "run/spec.yaml").read_text().splitlines()
    said = (
        r"""# Made from my file.yaml by --set context_servers.num_instances=1 --set 'env.A="it'"'"'s\n$(touch pwned)\n#SBATCH --wrap=x"'"""
    )
    assert head == said
    assert shlex.split(head.partition(" by ")[2])[1::2] == list(options)
    for one in (*tmp_path.glob("run/steps/*.sh"), *tmp_path.glob("run/job.sbatch")):
        shebang, second, *_ = one.read_text().splitlines()
        assert shebang.startswith("#!")
        assert second == said
        subprocess.run(["bash", "-n", str(one)], check=True)
    # whoever reads the folder again, as `scale` does, makes the same of it
    again = spec.load(tmp_path / "run/spec.yaml")
    assert [one for one in render.render(again, place.place(again), backend, "python3") if one not in files] == []


def test_a_second_change_is_said_before_the_first() -> None:
    first = spec.loads(SMALL, "a.yaml", ("port=1",)).source.text
    second = spec.loads(first, "runs/a/spec.yaml", ("port=2",)).source.text
    assert second.splitlines()[:2] == ["# Made from runs/a/spec.yaml by --set port=2", "# Made from a.yaml by --set port=1"]


def test_in_a_plan_nothing_can_be_set(tmp_path: pathlib.Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "t.yaml").write_text(SMALL)
    got = CliRunner().invoke(cli.root, ["diff", str(tmp_path / "t.yaml"), str(tmp_path / "plan.json"), "--set", "port=1"])
    assert isinstance(got.exception, BadInput)
    assert str(got.exception).endswith("plan.json: found a plan, in which nothing can be set; --set needs the topology file")
