"""The router's configuration: what is read, and every complaint at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from disagg_launch.errors import BadInput
from disagg_launch.router.assembly import renewed, unchangeable
from disagg_launch.router.config import POLICIES, FrontDoor, parse
from disagg_launch.router.keys import Keys

GOOD = {
    "hostname": "h",
    "port": 1234,
    "backend": "pytorch",
    "free_gpu_memory_fraction": 0.9,
    "context_servers": {"num_instances": 1, "urls": ["a:1"], "router": {"type": "Load_Balancing", "use_tokens": True}},
    "generation_servers": {"urls": ["b:2", "c:3"]},
}


def test_an_upstream_file_is_read() -> None:
    config = parse(GOOD)
    assert (config.host, config.port, config.max_retries) == ("h", 1234, 1)
    assert config.roles["context"].policy == "load_balancing" and config.roles["context"].options == {"use_tokens": True}
    assert config.roles["generation"].urls == ("b:2", "c:3") and config.roles["generation"].policy == "round_robin"


def test_all_complaints_come_at_once() -> None:
    bad = {
        **GOOD,
        "port": "x",
        "context_servers": {"num_instances": 3, "urls": ["http://a:1", "b:0"], "router": {"type": "magic"}},
        "conditional_disagg_config": {"max_local_prefill_length": 5},
        "front_door": {"max_quene": 1, "queue_timeout_s": -1, "processes": True, "dialect": "french", "tls_cert_file": "x"},
    }
    with pytest.raises(BadInput) as caught:
        parse(bad, "f.yaml")
    said = str(caught.value)
    for word in ("port: found 'x'", "http://a:1", "'b:0'", "num_instances is 3", "'magic'", "kv_cache_aware", "did you mean max_queue",
                 "queue_timeout_s: found -1", "processes: found True", "'french'", "go together"):  # fmt: skip
        assert word in said, word
    assert all(line.startswith("f.yaml: ") for line in said.splitlines())


def test_sglang_s_workers_are_always_both_asked() -> None:
    kv_cache_aware = {**GOOD["generation_servers"], "router": {"type": "kv_cache_aware"}}
    with pytest.raises(BadInput, match="conditional_disagg_config: SGLang's workers"):
        parse({**GOOD, "generation_servers": kv_cache_aware, "conditional_disagg_config": {}, "front_door": {"dialect": "sglang"}})


def test_vllm_s_workers_are_asked_one_after_the_other() -> None:
    with pytest.raises(BadInput, match="schedule_style: generation_first is not possible with vLLM"):
        parse({**GOOD, "schedule_style": "generation_first", "front_door": {"dialect": "vllm"}})


def test_the_plain_address_goes_with_tls_and_without_an_admin_port() -> None:
    tls = {"tls_cert_file": "c", "tls_key_file": "k"}
    assert parse({**GOOD, "front_door": {**tls, "plain_address": "node7:7999"}}).addresses == [("h", 1234), ("node7", 7999)]
    assert parse({**GOOD, "front_door": {**tls, "admin_port": 99}}).addresses == [("h", 1234), ("h", 99)]
    refused = ({"plain_address": "a:1"}, {**tls, "plain_address": "a:1", "admin_port": 2}, {**tls, "plain_address": "7999"})
    for door in (*refused, {**tls, "plain_address": "a:1234"}):
        with pytest.raises(BadInput, match="plain_address"):
            parse({**GOOD, "front_door": door})


def test_keys_are_read_and_change_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nalpha\n\nbeta \n")
    monkeypatch.setenv("SOME_KEYS", "gamma,delta")
    keys = Keys(str(path), "SOME_KEYS")
    owners = {key: keys.owner(b"Bearer " + key) for key in (b"alpha", b"beta", b"gamma", b"delta")}
    assert len(set(owners.values())) == 4 and None not in owners.values()
    assert not any(key.decode() in str(name) for key, name in owners.items())
    for wrong in (b"", b"alpha", b"Bearer", b"Bearer ", b"Bearer alph", b"Bearer alphaa", b"Basic alpha", b"Bearer # ours"):
        assert keys.owner(wrong) is None
    path.write_text("omega\n")
    keys._next_look = 0
    assert keys.owner(b"bearer omega") and keys.owner(b"Bearer alpha") is None and keys.owner(b"Bearer gamma")
    path.unlink()
    keys._next_look = 0
    assert keys.owner(b"Bearer omega")  # better the old keys than none


def test_missing_keys_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        Keys(str(tmp_path / "none"))
    with pytest.raises(BadInput):
        Keys(env="SURELY_NOT_SET")


def test_the_page_about_the_router_knows_every_key_and_policy() -> None:
    page = (Path(__file__).parents[3] / "docs" / "router.md").read_text()
    assert [name for name in (*(one.name for one in fields(FrontDoor)), *POLICIES) if name not in page] == []


def test_a_reload_keeps_what_sockets_and_processes_hang_on() -> None:
    old, new = parse(GOOD), parse({**GOOD, "port": 4321, "max_retries": 5, "front_door": {"processes": 2, "max_queue": 7}})
    assert list(unchangeable(old, new)) == ["port", "front_door.processes"]
    made = renewed(old, new)
    assert (made.port, made.front_door.processes, made.max_retries, made.front_door.max_queue) == (1234, 1, 5, 7)
