"""The map `disagg_cluster`, workers' entries, the in-memory store's clock, and addresses that others can reach."""

from __future__ import annotations

import json

import pytest

from disagg_launch.discovery.memory import Memory
from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime import metadata
from disagg_launch.runtime.cluster import Cluster, Member
from disagg_launch.runtime.registrar import Probed, healthy, reachable
from disagg_launch.runtime.stores import EXPIRED, SET


def test_a_worker_whose_host_is_no_name_is_not_well() -> None:
    assert not healthy(Probed("a..b", 8000), 1.0)


def test_the_whole_map() -> None:
    raw = {
        "cluster_uri": "http://head:8000",
        "cluster_name": "blue",
        "minimal_instances": {"context_servers": 2, "generation_servers": None},
        "heartbeat_interval_sec": 1,
        "inactive_timeout_sec": 4,
    }
    assert clusters.parse(raw) == Cluster("http://head:8000", "blue", 2, 1, 1, 4)


def test_defaults_and_the_flag_that_wins() -> None:
    assert clusters.parse(None) is None
    assert clusters.parse(None, "http://a:1") == Cluster("http://a:1", "", 1, 1, 5, 10)
    assert clusters.parse({"cluster_uri": "http://b:2", "cluster_name": None}, "etcd://a:1") == Cluster("etcd://a:1")


def test_the_documentation_s_spelling_is_taken() -> None:
    assert clusters.parse({"cluster_uri": "http://a:1", "inactive_interval_sec": 7}) == Cluster("http://a:1", inactive_s=7)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "cluster_uri"),
        ({"cluster_uri": "head:8000"}, "needed http://host:port"),
        ({"cluster_uri": "http://head"}, "needed http://host:port"),
        ({"cluster_uri": "etcd://a:1,etcd://b"}, "'b'"),
        ({"cluster_uri": "http://a:1", "heartbeat": 1}, "heartbeat: no such key"),
        ({"cluster_uri": "http://a:1", "minimal_instances": {"context": 1}}, "minimal_instances.context: no such key"),
        ({"cluster_uri": "http://a:1", "inactive_timeout_sec": "soon"}, "'soon'"),
        ([], "a map"),
    ],
)
def test_what_is_wrong_is_said(raw: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        clusters.parse(raw)  # type: ignore[arg-type]


def test_an_entry_travels_in_upstream_s_form() -> None:
    one = clusters.new_member(GENERATION, "node7", 8001)
    role, rest = one.worker_id.split("-", 1)
    assert role == "GENERATION"
    assert rest.startswith("node7:8001-")
    assert len(rest.rsplit("-", 1)[1]) == 3
    assert json.loads(one.to_json()) == {"worker_id": one.worker_id, "host": "node7", "port": 8001, "role": 1}
    assert clusters.member(one.to_json()) == one
    assert Cluster("http://a:1", "blue").prefix == "/trtllm-disagg/blue/workers"


def test_ipv6_gets_its_brackets() -> None:
    assert Member("x", "fe80::1", 80, CONTEXT).url == "[fe80::1]:80"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{}",
        "[]",
        "7",
        '{"worker_id": "a", "host": "h", "port": "80", "role": 0}',
        '{"worker_id": "a", "host": "h/x", "port": 80, "role": 0}',
        '{"worker_id": "a", "host": "h", "port": 80, "role": 9}',
    ],
)
def test_what_is_no_entry(value: str) -> None:
    with pytest.raises(ValueError):
        clusters.member(value)


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def watched() -> tuple[Memory, Clock, list[str]]:
    """A store, its clock, and what a watch of everything heard."""
    clock, heard = Clock(), []
    store = Memory(clock)
    store.watch("", lambda change: heard.append(f"{change.kind} {change.key}"))
    return store, clock, heard


def test_a_stalled_storage_charges_nobody() -> None:
    store, clock, heard = watched()
    store.set("a", "1", ttl_s=10)
    clock.now += 3600  # nobody could refresh anything in this hour
    store.sweep()
    assert store.get("a") == "1"
    for _ in range(7):
        clock.now += 1
        store.sweep()
    assert store.get("a") == "1"
    clock.now += 1
    store.sweep()
    assert heard == [f"{SET} a", f"{EXPIRED} a"]


def test_reading_an_entry_that_is_over_reports_its_end() -> None:
    store, clock, heard = watched()
    store.set("a", "1", ttl_s=1)
    clock.now += 1
    assert store.get("a") is None
    assert heard == [f"{SET} a", f"{EXPIRED} a"]
    assert store.set("a", "2") is True


def test_an_address_that_others_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISAGG_ADVERTISE", raising=False)
    here = ("127.0.0.1", 8000)
    assert reachable("node3", here) == "node3"
    assert reachable("0.0.0.0", here) == "127.0.0.1"
    assert reachable("localhost", here) == "localhost"
    elsewhere = reachable("0.0.0.0", ("192.0.2.1", 8000))
    assert not clusters.is_loopback(elsewhere)
    assert elsewhere not in clusters.ANYWHERE
    monkeypatch.setenv("DISAGG_ADVERTISE", "fast7")
    assert reachable("0.0.0.0", here) == "fast7"


def test_the_seed_s_metadata_sample_is_understood() -> None:
    sample = {"hostname": "localhost", "port": 2379, "health_check_timeout": 5.0, "refersh_interval": 3}
    assert metadata.parse(sample) == metadata.Metadata(refresh_interval=3)
    with pytest.raises(BadInput, match="there is only etcd"):
        metadata.parse({"server_type": "zookeeper"})
    with pytest.raises(BadInput, match="no such key"):
        metadata.parse({"host": "a"})


def test_metadata_entries() -> None:
    key, value = metadata.new_entry(CONTEXT, "node1", 8001, "llama")
    assert key.startswith("trtllm/")
    assert json.loads(value)["server_role"] == "CONTEXT"
    assert metadata.read_entry(value) == (CONTEXT, "node1:8001")
    assert metadata.read_entry('{"url": "http://h:1", "server_type": "generation"}') == (GENERATION, "h:1")
    for other in ("", "[]", '{"url": "http://h:1"}', '{"url": "http://h:x", "server_role": "CONTEXT"}', '{"server_role": "CONTEXT"}'):
        assert metadata.read_entry(other) is None
