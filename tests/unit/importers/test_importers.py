"""Files of other tools become topologies; whatever stands in them is either taken over or said not to be."""

from __future__ import annotations

import contextlib
import copy
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch import lint, spec
from disagg_launch.commands.lint import import_
from disagg_launch.errors import BadInput
from disagg_launch.spec.load import convert

FILES = {path.stem: path for path in (pathlib.Path(__file__).parent / "files").glob("*.yaml")}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inside:
        yield path
    for key, item in inside:
        yield from leaves(item, (*path, key))


def replaced(values: Any, path: tuple, new: Any) -> Any:
    out = copy.deepcopy(values)
    here = out
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = new
    return out


def at(values: Any, path: tuple) -> Any:
    for part in path:
        values = values[part]
    return values


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 3
    return f"{value}x" if isinstance(value, str) else "something"


def test_trtllm_slurm_config():
    got = spec.loads(TEXTS["trtllm-slurm"])
    assert (got.model, got.port, got.engine.name, got.cluster.gpus_per_node) == ("/data/model", 8333, "trtllm", 4)
    assert [(s.num_instances, s.tensor_parallel_size) for s in (got.context_servers, got.generation_servers)] == [(2, 4), (1, 8)]
    assert (got.slurm.gpus_flag, got.slurm.comment, got.slurm.extra_args) == ("gres", "two words", ("--licenses=a:1",))
    assert got.slurm.container_mounts == ("/data:/data", "/home/me:/home/me")
    assert (got.slurm.time, got.slurm.numa_bind, got.slurm.mpi) == ("02:00:00", True, "pmix")
    assert got.context_servers.env == {"TLLM_LOG_LEVEL": "INFO", "UCX_NET_DEVICES": "mlx5_0:1,mlx5_1:1"}
    assert got.generation_servers.env["GEN_ONLY"] == "010"
    assert got.router.env == {"TRTLLM_SERVER_DISABLE_GC": "1"}
    assert got.context_servers.engine_keys["cuda_graph_config"] is None
    assert got.generation_servers.engine_keys["cuda_graph_config"] == {"enable_padding": True, "batch_sizes": [1, 2, 4]}


def test_older_srt_slurm_recipe():
    got = spec.loads(TEXTS["srt-slurm-1"])
    assert (got.name, got.engine.name, got.router.name) == ("try-1--small", "trtllm", "builtin")
    assert (got.cluster.nodes, got.cluster.gpus_per_node, got.cluster.policy) == (4, 4, "separate_roles")
    assert [(s.num_instances, s.size) for s in (got.context_servers, got.generation_servers)] == [(4, 2), (1, 8)]
    assert got.context_servers.env == {"NCCL_DEBUG": "WARN", "TRTLLM_ENABLE_PDL": "1", "PURGE_DELAY": "010"}
    assert (got.slurm.constraint, got.slurm.exclusive, got.slurm.segment) == ("nvlink", True, 4)
    assert (got.slurm.extra_args, got.slurm.srun_args) == (("--wait-all-nodes=1",), ("--cpu-bind=none",))
    assert (got.slurm.container_image, got.readiness.limit_s) == ("/images/trt.sqsh", 1800)


def test_srt_slurm_recipe_of_schema_2():
    got = spec.loads(TEXTS["srt-slurm-2"])
    assert (got.engine.name, got.router.name, got.router.options) == ("vllm", "vllm", {"policy": "consistent_hash"})
    assert [(s.num_instances, s.size) for s in (got.context_servers, got.generation_servers)] == [(2, 2), (1, 4)]
    assert (got.cluster.nodes, got.cluster.policy) == (1, "pack")
    assert got.context_servers.engine_keys == {"max_model_len": 4096, "gpu_memory_utilization": 0.5}


def test_aiconfigurator_output():
    got = spec.loads(TEXTS["aiconfigurator"])
    assert (got.model, got.hostname, got.port, got.engine.name) == ("org/model", "0.0.0.0", 8000, "trtllm")
    assert [(s.num_instances, s.size) for s in (got.context_servers, got.generation_servers)] == [(3, 1), (1, 4)]
    transceiver = {"backend": "DEFAULT", "max_tokens_in_buffer": 6500}
    keys = {"max_batch_size": 512, "kv_cache_config": {"dtype": "fp8"}, "cache_transceiver_config": transceiver}
    assert got.generation_servers.engine_keys == keys


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_aiconfigurator_names_are_the_engines(engine):
    got = spec.loads(TEXTS["aiconfigurator"].replace("tensorrtllm-runtime", f"{engine}-runtime"))
    key = {"vllm": "max_num_seqs", "sglang": "max_running_requests"}[engine]
    assert got.engine.name == engine
    assert got.generation_servers.engine_keys == {key: 512, "kv_cache_dtype": "fp8"}


def test_aiconfigurators_data_parallelism_is_attention_replicas_in_trtllm():
    got = spec.loads(
        TEXTS["aiconfigurator"].replace("data_parallel_size: 1\n    gpus_per_worker: 4", "data_parallel_size: 2\n    gpus_per_worker: 8")
    )
    assert (got.generation_servers.size, got.generation_servers.engine_keys["enable_attention_dp"]) == (8, True)
    got = spec.loads(TEXTS["aiconfigurator"].replace("tensorrtllm", "vllm").replace("data_parallel_size: 1", "data_parallel_size: 2"))
    assert (got.generation_servers.size, got.generation_servers.data_parallel_size) == (8, 2)


OLD = """\
name: old
model: {path: alias, container: image, precision: fp8}
resources: {gpus_per_node: 4, prefill_nodes: 1, prefill_workers: 1, decode_nodes: 2, decode_workers: 1}
backend:
  sglang_config:
    prefill: {model-path: /model/, tensor-parallel-size: 4, data-parallel-size: 4, enable-dp-attention: true}
    decode: {mem-fraction-static: 0.9}
frontend: {type: sglang}
"""


def test_older_recipe_without_an_engine_is_for_sglang():
    got = spec.loads(OLD)
    assert (got.engine.name, got.router.name, got.model) == ("sglang", "sglang", "alias")
    assert got.context_servers.size == 4
    assert got.context_servers.engine_keys == {"dp_size": 4, "enable_dp_attention": True}
    assert got.generation_servers.tensor_parallel_size == 8
    assert any(one.key == "backend.sglang_config" and "model-path" in one.text for one in got.warnings)


def test_several_recipes_in_one_file_are_refused():
    text = "base:\n" + "".join(f"  {line}\n" for line in OLD.splitlines()) + "override_big: {resources: {decode_nodes: 4}}\n"
    with pytest.raises(BadInput, match=r"t.yaml:1:1: base: found several recipes in one file \(base and override_big\)"):
        spec.loads(text, "t.yaml")


@pytest.mark.parametrize("name", FILES)
def test_no_change_of_a_leaf_goes_unseen(name):
    """Whatever leaf is changed, the topology or its comments change with it: nothing is dropped silently."""
    values = yaml.safe_load(TEXTS[name])
    before = convert(yaml.safe_dump(values, sort_keys=False), "t.yaml")
    unseen = []
    for path in leaves(values):
        try:
            after = convert(yaml.safe_dump(replaced(values, path, other(at(values, path))), sort_keys=False), "t.yaml")
        except BadInput:
            continue
        unseen += [path] if after == before else []
    assert unseen == []


@pytest.mark.parametrize("name", FILES)
def test_a_new_leaf_anywhere_is_mentioned(name):
    values = yaml.safe_load(TEXTS[name])
    maps = {path[:n] for path in leaves(values) for n in range(len(path))}
    for path in (p for p in maps if isinstance(at(values, p), dict)):
        text = convert(yaml.safe_dump(replaced({"": values}, ("", *path, "brand-new"), "leaf")[""], sort_keys=False), "t.yaml")
        assert "brand-new" in text or "brand_new" in text


@pytest.mark.parametrize("name", FILES)
def test_the_written_topology_is_the_one_that_is_used(name):
    direct, written = spec.loads(TEXTS[name]), spec.loads(convert(TEXTS[name], "t.yaml"))
    assert direct.model_dump(exclude={"warnings"}) == written.model_dump(exclude={"warnings"})
    assert direct.source.text == convert(TEXTS[name], "t.yaml")


@pytest.mark.parametrize("name", FILES)
def test_what_is_left_out_is_a_warning_at_its_line(name):
    got = spec.loads(TEXTS[name], "t.yaml")
    lines = TEXTS[name].splitlines()
    left = [one for one in got.warnings if "not taken over" in one.text]
    assert left
    assert all(one.key.rpartition(".")[2] in lines[one.line - 1] for one in left)


def test_complaints_point_into_the_original():
    text = TEXTS["srt-slurm-1"].replace("tensor_parallel_size: 8", "tensor_parallel_size: eight")
    line = 1 + text.splitlines().index("      tensor_parallel_size: eight")
    with pytest.raises(spec.BadTopology) as caught:
        spec.loads(text, "t.yaml")
    assert f"t.yaml:{line}:29: generation_servers.tensor_parallel_size: found 'eight'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("srt-slurm-1", "type: trtllm", "type: mocker", "allowed: trtllm, sglang, vllm"),
        ("srt-slurm-2", "engine:\n  type: vllm\n  connector: nixl", "engine: atom", "allowed: trtllm, sglang, vllm"),
        ("srt-slurm-2", "roles:\n  prefill:", "roles:\n  agg:", None),
        ("aiconfigurator", "params:\n  prefill:", "params:\n  zzz:", None),
    ],
)
def test_what_cannot_be_imported_says_so(name, old, new, said):
    assert old in TEXTS[name]
    text = TEXTS[name].replace(old, new)
    if said is None:
        assert "zzz" in convert(text, "t.yaml") or "agg" in convert(text, "t.yaml")
        return
    with pytest.raises(BadInput, match=said):
        convert(text, "t.yaml")


def test_what_cannot_be_read_is_an_error_at_its_place():
    text = TEXTS["trtllm-slurm"].replace("--comment='two words'", "--comment='two words")
    with pytest.raises(spec.BadTopology, match=r"t.yaml:7:15: slurm.extra_args: found .*; allowed: words that a shell can split"):
        spec.loads(text, "t.yaml")


def test_aggregated_files_are_refused():
    with pytest.raises(BadInput, match=r"t.yaml:3:1: roles: found neither .*; needed: a disaggregated recipe"):
        convert("schema: 2\nengine: vllm\nroles: {agg: {workers: 1}}\n", "t.yaml")
    with pytest.raises(BadInput, match=r"t.yaml:2:1: params: found neither .*; needed: a disaggregated result"):
        convert("ServiceConfig: {model_path: m}\nparams: {agg: {tensor_parallel_size: 1}}\n", "t.yaml")


def test_a_value_cannot_break_out_of_a_comment():
    text = 'schema: 2\nname: n\nmodel: {path: m}\nengine: vllm\nfrontend: {type: "x\\nport: 1"}\n'
    text += 'roles: {prefill: {workers: 1}, decode: {workers: 1}}\n? "zzz\\nmax_retries"\n: 9\n'
    got = yaml.safe_load(convert(text, "t.yaml"))
    assert "port" not in got
    assert "max_retries" not in got


def test_our_own_form_is_printed_as_it_is(tmp_path):
    text = "# mine\ncontext_servers: {urls: ['a:1']}\ngeneration_servers: {urls: ['a:2']}\n"
    (tmp_path / "t.yaml").write_text(text)
    got = CliRunner().invoke(import_, [str(tmp_path / "t.yaml")])
    assert (got.exit_code, got.output) == (0, text)


def test_a_file_that_nobody_knows_is_not_printed_as_a_topology(tmp_path):
    (tmp_path / "t.yaml").write_text("apiVersion: v1\nkind: Deployment\n")
    got = CliRunner().invoke(import_, [str(tmp_path / "t.yaml")])
    assert got.output == ""
    assert "1:1: found neither context_servers nor generation_servers; needed: a topology file" in str(got.exception)


def test_what_is_empty_was_not_left_out():
    text = "schema: 2\nmodel: {path: m}\nengine: vllm\nextra: ''\nroles: {prefill: {workers: 1}, decode: {workers: 1}}\n"
    assert not [one for one in spec.loads(text).warnings if one.key == "extra"]


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_file_is_a_topology_or_refused_with_words(data):
    values = yaml.safe_load(TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))])
    paths = sorted({path[:n] for path in leaves(values) for n in range(1, len(path) + 1)}, key=str)
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=3)):
        with contextlib.suppress(TypeError, KeyError, IndexError):
            values = replaced(values, path, data.draw(junk))
    try:
        spec.loads(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "t.yaml")
    except BadInput as refused:
        assert "t.yaml" in str(refused)


def test_all_place_holders_are_told_in_one_round():
    """As many as upstream's sample has, though one of them cannot even be read as what it is for."""
    text = TEXTS["trtllm-slurm"]
    for value in ("gb200", "team", "bench-1", "/images/trt.sqsh", "/data/model", "/data:/data,/home/me:/home/me", "/home/me/work"):
        text = text.replace(f": {value}\n", ': "<yours>"\n', 1)
    with pytest.raises(spec.BadTopology) as caught:
        spec.loads(text, "t.yaml")
    errors = [str(one) for one in caught.value.complaints if one.severity == spec.ERROR]
    said = "found <yours>; needed: a value of yours [DL007]"
    places = {
        "3:14: slurm.partition": said, "4:12: slurm.account": said, "6:13: slurm.job_name": said, "22:20: slurm.container_mounts[0]": said,
        "23:20: slurm.container_image": said, "24:15: model": said,
    }  # fmt: skip
    assert errors == [f"t.yaml:{place}: {text}" for place, text in places.items()]
    # and without the one that cannot be read they are what lint says
    got = spec.loads(text.replace('job_name: "<yours>"', "job_name: mine"), "t.yaml")
    assert [str(one) for one in lint.check(got) if one.severity == spec.ERROR] == [one for one in errors if "job_name" not in one]
