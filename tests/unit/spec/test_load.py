"""Loading a topology: what is accepted, what it becomes, and that every complaint stands at its place."""

from __future__ import annotations

from typing import Annotated, get_args, get_origin

import pytest
from pydantic import BaseModel

from disagg_launch import spec
from disagg_launch.errors import BadInput
from disagg_launch.spec.fields import WORD
from disagg_launch.spec.model import Topology
from disagg_launch.spec.source import parse
from disagg_launch.spec.written import as_written

SMALL = """\
model: random:1
engine: {name: reference}
context_servers: {num_instances: 2, tensor_parallel_size: 2}
generation_servers: {num_instances: 1}
"""


def complaints(text: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        spec.loads(text, "t.yaml")
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("t.yaml cannot be used: ")
    return lines


def test_small_spec_has_defaults():
    got = spec.loads(SMALL)
    assert (got.name, got.hostname, got.port, got.model, got.external) == ("disagg", "localhost", 8000, "random:1", False)
    assert (got.context_servers.num_instances, got.context_servers.size, got.generation_servers.size) == (2, 2, 1)
    assert got.section("generation") is got.generation_servers
    assert (got.cluster.gpus_per_node, got.cluster.nodes, got.cluster.policy, got.cluster.base_port) == (8, None, "pack", 8001)
    assert got.warnings == ()


def test_top_level_engine_keys_count_for_both_sections():
    got = spec.loads(SMALL + "max_batch_size: 4\nkv_cache_config: {dtype: fp8}\n")
    for role in ("context", "generation"):
        assert got.section(role).engine_keys == {"max_batch_size": 4, "kv_cache_config": {"dtype": "fp8"}}
        assert got.section(role).model == "random:1"


def test_section_may_repeat_but_not_contradict_the_top_level():
    text = "model: m\nmax_batch_size: 4\ncontext_servers: {max_batch_size: 4}\ngeneration_servers:\n  max_batch_size: 8\n"
    assert complaints(text) == [
        "t.yaml:5:19: generation_servers.max_batch_size: found 8 (an integer), but the top level (line 2) has 4 (an integer) for both "
        "sections; allowed: the same value, or the key in each section and not at the top level"
    ]


def test_true_is_not_one():
    assert (
        "but the top level" in complaints("model: m\nprint_iter_log: 1\ncontext_servers: {print_iter_log: true}\ngeneration_servers:\n")[0]
    )


def test_null_sections_are_default_sections():
    got = spec.loads("model: m\ncontext_servers:\ngeneration_servers: null\nslurm:\n")
    assert got.context_servers.num_instances == got.generation_servers.num_instances == 1


def test_urls_only_describes_servers_that_run():
    got = spec.loads("backend: pytorch\ncontext_servers: {urls: ['a:1', 'b:2']}\ngeneration_servers: {num_instances: 1, urls: ['c:3']}\n")
    assert got.external
    assert got.context_servers.urls == ("a:1", "b:2")
    assert got.context_servers.num_instances == 2


def test_discovery_alone_is_external_and_both_spellings_count():
    got = spec.loads("disagg_cluster: {cluster_uri: 'http://h:1', inactive_interval_sec: 7, cluster_name: null}\n")
    assert got.external
    assert got.disagg_cluster is not None
    assert got.disagg_cluster.inactive_timeout_sec == 7
    assert got.router_keys["disagg_cluster"]["inactive_timeout_sec"] == 7


def test_contradicting_spellings_are_refused():
    text = "disagg_cluster: {cluster_uri: 'http://h:1', inactive_interval_sec: 7, inactive_timeout_sec: 8}\n"
    assert "contradicts inactive_timeout_sec" in complaints(text)[0]


def test_upstreams_router_at_the_top_is_inherited_and_ours_is_not():
    assert spec.loads(SMALL + "router: {type: round_robin}\n").context_servers.router == {"type": "round_robin"}
    got = spec.loads(SMALL + "router: {name: sglang}\n")
    assert (got.router.name, got.context_servers.router) == ("sglang", {})


def test_env_is_carried_as_written_and_merged():
    got = spec.loads(SMALL.replace("2}", "2, env: {B: '2', A: 1.10}}") + "env: {A: 010, C: 1e3}\n")
    assert got.context_servers.env == {"A": "1.10", "B": "2", "C": "1e3"}
    assert got.generation_servers.env == got.env == {"A": "010", "C": "1e3"}


def words(kind, path=()):
    """Every place in a model where a number may stand for a text."""
    inner = get_args(kind)
    if get_origin(kind) is Annotated and WORD in inner:
        yield path
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield from words(field.rebuild_annotation(), (*path, name))
    elif get_origin(kind) is dict:
        yield from words(inner[1], (*path, "KEY"))
    elif get_origin(kind) is tuple:
        yield from words(inner[0], (*path, 0))
    elif inner:
        yield from words(inner[0], path)


@pytest.mark.parametrize("path", list(words(Topology)), ids=str)
def test_a_number_for_a_text_is_carried_as_written(path):
    value = "1.10"
    for part in reversed(path):
        value = f"[{value}]" if part == 0 else f"{{{part}: {value}}}"
    source, _ = parse(value, "t.yaml")
    got = as_written(Topology, source.values, source)
    for part in path:
        got = got[part]
    assert got == "1.10"


def test_times_are_texts():
    assert spec.loads(SMALL + "slurm: {time: 1:30:00}\n").slurm.time == "1:30:00"
    assert spec.loads(SMALL + "slurm: {time: 030}\n").slurm.time == "030"


def test_dates_are_texts():
    assert spec.loads(SMALL + "env: {BUILT: 2026-01-31}\nmax_seq_len: 2026-01-31\n").env == {"BUILT": "2026-01-31"}


def test_anchors_and_merge_keys():
    got = spec.loads(
        "model: m\ncontext_servers: &base {num_instances: 2, max_batch_size: 4}\ngeneration_servers: {<<: *base, num_instances: 1}\n"
    )
    assert (got.generation_servers.num_instances, got.generation_servers.engine_keys) == (1, {"max_batch_size": 4})


BAD = """\
name: a b
model: m
engine: {name: referense}
context_servers:
  num_instances: two
  tensor_paralel_size: 2
  env: {A: yes}
generation_servers:
  num_instances: 3
  urls: ["a:1", "http://b:2"]
  zonk: 1
cluster: {nodez: 2, pins: {ctx9: {nodes: [0]}}}
slurm: {segment: 99999999999999999999}
"""


def test_all_complaints_come_at_once_sorted_and_placed():
    got = complaints(BAD)
    assert [line.split(": ")[0] for line in got] == [
        "t.yaml:1:7", "t.yaml:3:16", "t.yaml:5:18",
        "t.yaml:6:3", "t.yaml:7:12", "t.yaml:10:17", "t.yaml:11:3", "t.yaml:12:11", "t.yaml:12:28",
        "t.yaml:13:18",
    ]  # fmt: skip
    assert "found 'referense' (a string); allowed: reference, trtllm, vllm, sglang, command (did you mean reference?)" in got[1]
    assert "(did you mean tensor_parallel_size?)" in got[3]
    assert "warning: generation_servers.zonk" in got[6]
    assert "(did you mean nodes?)" in got[7]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "t.yaml:1:1: the file is empty"),
        ("- a\n", "t.yaml:1:1: found a list at the top level"),
        ("{}", "t.yaml:1:1: found an empty map"),
        ("a: [1\n", "t.yaml:2:1: not YAML"),
        ("a: \tb: c\n", "t.yaml:1:"),
        ("port: 1\nport: 2\n", "t.yaml:2:1: port: found this key twice; it is already at line 1"),
        ("a: !!python/object:os.system 1\n", "t.yaml:1:4: a: found the tag"),
        ("a: !x {b: 1}\n", "t.yaml:1:4: a: found the tag"),
        ("yes: 1\n", "t.yaml:1:1: found 'yes' as a key"),
        ("? [a, b]\n: 1\n", "t.yaml:1:3: found a map or list as a key"),
        ("<<: 3\n", "t.yaml:1:1: found `<<` without a map"),
        ("a: 1\n---\nb: 2\n", "t.yaml:2:1: not YAML"),
        ("a: 1\r\nbb: \0\n", "t.yaml:2:5: not YAML: found the character U+0000, which YAML does not allow"),
        ('model: m\nenv: {A: "x\\0"}\n', "t.yaml:2:10: env.A: found the character U+0000, which no file and no command line can hold"),
        ('model: "\\ud800"\n', "t.yaml:1:8: model: found the character U+D800"),
        ("model: m\n1: 2\ncontext_servers:\ngeneration_servers:\n", "t.yaml:2:1: [1]: found 1 (an integer); allowed: text"),
    ],
)
def test_files_that_are_no_topology(text, line):
    assert any(one.startswith(line) for one in complaints(text))


def test_unreadable_files_say_so(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        spec.load(tmp_path / "absent.yaml")
    with pytest.raises(BadInput, match="Is a directory"):
        spec.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: m\nname: caf\xe9\n")
    with pytest.raises(BadInput, match=r"latin.yaml:2:10: found the byte 0xe9"):
        spec.load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("cluster: {policy: align_domain}", "cluster.domain_nodes: is missing"),
        ("cluster: {nodes: 2, pins: {gen0: {nodes: [2]}}}", "cluster.pins.gen0.nodes[0]: found 2; allowed: 0..1"),
        ("cluster: {nodes: 3, groups: [{name: a, nodes: 1, gpus_per_node: 4}]}", "cluster.nodes: found 3, but the groups have 1"),
        ("cluster: {pins: {ctx0: {gpus: [0, 0]}}}", "cluster.pins.ctx0.gpus[1]: found 0 twice; allowed: each number once"),
        ("cluster: {exclude: {gpus: {1: [0, 8], -1: [0]}}}", "cluster.exclude.gpus[1][1]: found 8; allowed: 0..7"),
        ("cluster: {nodes: 1, exclude: {gpus: {1: [0]}}}", "cluster.exclude.gpus[1]: found node 1; allowed: 0..0"),
        ("env: {A=B: c}", """env.A=B: found 'A=B' (a string); allowed: the name of a variable, without "=\""""),
        ("name: a b", "name: found 'a b' (a string); allowed: at most 63 letters, digits, _ . and -, the first a letter or digit"),
        ("readiness: {limit_s: .nan}", "readiness.limit_s: found nan (a number); allowed: a finite number"),
        ("router: builtin", "router: found 'builtin' (a string); allowed: a map, here {name: builtin}"),
        ("router: {name: command}", "router.command: is missing"),
        ("port: 70000", "port: found 70000 (an integer); allowed: at most 65535"),
        ("port: '8000'", "port: found '8000' (a string); allowed: an integer"),
        ("model2: m\nclutser: {nodes: 2}", "clutser: found an unknown key (did you mean cluster?)"),
        ("schedule_style: generation", "(did you mean generation_first?)"),
        ("conditional_disagg_config: {max_local_prefil_length: 1}", "(did you mean max_local_prefill_length?)"),
    ],
)
def test_rules_of_single_keys(extra, said):
    assert any(said in line for line in complaints(SMALL + extra + "\n"))


@pytest.mark.parametrize(
    "text",
    [
        'model: "a\\nb"\ncontext_servers:\ngeneration_servers:\n',
        "model: m\nport: x\ncontext_servers: [1]\ngeneration_servers:\n",
        "model: m\nport: x\ncontext_servers: {num_instances: 0, model: [1]}\ngeneration_servers:\n",
    ],
)
def test_what_is_there_but_wrong_is_not_called_missing(text):
    assert not [line for line in complaints(text) if "missing" in line or "at least one instance" in line]


def test_sections_have_to_be_there():
    assert "found no generation_servers" in complaints("model: m\ncontext_servers: {}\n")[0]
    assert "at least one instance" in complaints("context_servers: {num_instances: 0}\ngeneration_servers: {num_instances: 0}\n")[0]


def test_a_negated_flag_is_a_key_of_its_engine():
    keys = "no_enable_prefix_caching: true\nno_enable_prefix_cachin: true\n"
    warned = spec.loads(SMALL.replace("reference", "vllm") + keys).warnings
    assert [(one.key, "did you mean no_enable_prefix_caching?" in one.text) for one in warned] == [("no_enable_prefix_cachin", True)]


def test_too_many_ranks_are_refused():
    assert "ranks in all" in complaints(SMALL.replace("num_instances: 2", "num_instances: 600000"))[0]


def test_a_mixed_server_needs_equal_keys():
    text = "context_servers: {urls: ['a:1'], dtype: x}\ngeneration_servers: {urls: ['a:1']}\n"
    assert "a:1 in both sections" in complaints(text)[0]
    assert spec.loads(text.replace(", dtype: x", "")).external


def test_a_spec_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        spec.loads(SMALL).port = 1


def test_a_place_holder_is_told_beside_other_errors_unless_it_is_to_be_ignored():
    text = SMALL.replace("random:1", '"<model>"') + 'port: "<port>"\nname: a b\n'
    named = "t.yaml:6:7: name: found 'a b' (a string); allowed: at most 63 letters, digits, _ . and -, the first a letter or digit"
    said = "needed: a value of yours [DL007]"
    assert complaints(text) == [f"t.yaml:1:8: model: found <model>; {said}", f"t.yaml:5:7: port: found <port>; {said}", named]
    assert complaints(text + "lint: {ignore: [DL007]}\n") == ["t.yaml:5:7: port: found '<port>' (a string); allowed: an integer", named]


def test_a_key_that_an_engine_has_under_another_name_now_tells_of_which_release_that_is_known():
    got = spec.loads("model: m\nengine: {name: sglang}\ncontext_servers: {enable_ep_moe: true}\ngeneration_servers:\n")
    assert "engine sglang (as of 0.5.23) is not known to have this key; it is passed on" in str(got.warnings[0])
