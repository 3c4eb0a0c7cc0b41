"""The store's contract, held over HTTP to our own storage and over its gateway to a real etcd; and what a watch has to survive."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import EtcdServer, Storage, until

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime.etcd import Etcd
from disagg_launch.runtime.stores import DELETED, EXPIRED, SET, Change, HttpStore, Store, Unreachable, WatchedStore, connect

PREFIX = "/trtllm-disagg/test/workers"


@dataclass
class Both:
    """A store, and the one that can be watched for it: over HTTP nobody can watch, the server itself does."""

    store: Store
    watched: WatchedStore
    tick: Callable[[], None]


@pytest.fixture(params=["http", "etcd"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    """Each kind of store in turn."""
    if request.param == "etcd":
        server: EtcdServer = request.getfixturevalue("etcd")
        etcd = Etcd([server.endpoint])
        yield Both(etcd, etcd, lambda: None)
    else:
        served: Storage = request.getfixturevalue("storage")
        yield Both(connect(served.uri), served.memory, served.memory.sweep)


class Heard:
    """What a watch told, and the map that results."""

    def __init__(self, both: Both) -> None:
        self.changes: list[Change] = []
        self.map: dict[str, str] = {}
        self._tick = both.tick
        self.stop = both.watched.watch(PREFIX, self._hear)

    def _hear(self, change: Change) -> None:
        self.changes.append(change)
        if change.kind == SET:
            self.map[change.key] = change.value
        else:
            self.map.pop(change.key, None)

    def until(self, wanted: list[tuple[str, str]]) -> None:
        """Wait for exactly these (kind, last part of the key)."""

        def there() -> bool:
            self._tick()
            return len(self.changes) >= len(wanted)

        until(there, f"{wanted}, heard {self.changes}")
        assert [(c.kind, c.key.rpartition("/")[2]) for c in self.changes] == wanted


def key(name: str) -> str:
    """A key under the prefix."""
    return f"{PREFIX}/{name}"


def test_an_entry_is_not_overwritten_unless_asked(both: Both) -> None:
    store = both.store
    assert store.get(key("a")) is None
    assert store.set(key("a"), "1") is True
    assert store.set(key("a"), "2") is False
    assert store.get(key("a")) == "1"
    assert store.set(key("a"), "3 é", overwrite=True) is True
    assert store.get(key("a")) == "3 é"


def test_deleting_says_whether_there_was_something(both: Both) -> None:
    assert both.store.delete(key("a")) is False
    both.store.set(key("a"), "1")
    assert both.store.delete(key("a")) is True
    assert both.store.get(key("a")) is None


def test_a_prefix_lists_its_own_entries_only(both: Both) -> None:
    assert both.store.prefix(PREFIX) == {}
    both.store.set(key("a"), "1")
    both.store.set(key("b"), "")
    both.store.set("/trtllm-disagg/other/workers/c", "3")
    assert both.store.prefix(PREFIX) == {key("a"): "1", key("b"): ""}
    assert both.store.prefix(PREFIX, keys_only=True) == {key("a"): "", key("b"): ""}


def test_what_is_refreshed_lives_and_what_is_not_goes(both: Both) -> None:
    assert both.store.expire(key("a"), 1) is False
    both.store.set(key("a"), "1", ttl_s=2)
    both.store.set(key("b"), "2", ttl_s=2)
    until(lambda: both.store.expire(key("a"), 2) and both.store.get(key("b")) is None, "the end of b alone")
    assert both.store.get(key("a")) == "1"
    until(lambda: both.store.get(key("a")) is None, "the end of a")


def test_an_entry_for_ever_can_be_given_an_end(both: Both) -> None:
    both.store.set(key("a"), "1")
    assert both.store.expire(key("a"), 1) is True
    until(lambda: both.store.get(key("a")) is None, "its end")


def test_a_watch_tells_what_is_there_and_then_what_changes(both: Both) -> None:
    both.store.set(key("a"), "1")
    heard = Heard(both)
    heard.until([(SET, "a")])
    both.store.set(key("b"), "2")
    both.store.set("/elsewhere", "9")
    both.store.delete(key("a"))
    both.store.set(key("b"), "3", overwrite=True)
    heard.until([(SET, "a"), (SET, "b"), (DELETED, "a"), (SET, "b")])
    assert heard.map == {key("b"): "3"}
    heard.stop()
    heard.stop()
    both.store.set(key("c"), "4")
    time.sleep(0.1)
    assert key("c") not in heard.map


def test_a_watch_tells_leaving_from_falling_silent(both: Both) -> None:
    heard = Heard(both)
    both.store.set(key("leaves"), "1", ttl_s=60)
    both.store.delete(key("leaves"))
    both.store.set(key("silent"), "1", ttl_s=1)
    heard.until([(SET, "leaves"), (DELETED, "leaves"), (SET, "silent"), (EXPIRED, "silent")])


def test_nothing_falls_between_list_and_watch(both: Both) -> None:
    """Watches begun while another client writes all end up with the same map as the store."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            both.store.set(key(str(number % 7)), str(number), overwrite=True)
            if number % 3 == 0:
                both.store.delete(key(str(number % 5)))

    writer = threading.Thread(target=write)
    writer.start()
    watches = []
    for _ in range(5):
        watches.append(Heard(both))
        time.sleep(0.05)
    stop.set()
    writer.join()
    truth = both.store.prefix(PREFIX)
    for heard in watches:
        until(lambda heard=heard: heard.map == truth, "the same map")  # type: ignore[misc]
        heard.stop()


def test_nobody_answers() -> None:
    for store in (HttpStore("http://127.0.0.1:9"), Etcd(["127.0.0.1:9", "localhost:9"])):
        with pytest.raises(Unreachable):
            store.get("a")


# ---- our storage on the wire ----------------------------------------------------------------------------------------------


def ask(uri: str, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """(status, JSON) of one request, made from the protocol's description alone."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(uri + target, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as no:
        return no.code, json.loads(no.read())


def test_the_protocol_word_for_word(storage: Storage) -> None:
    item = {"key": "/w/1", "value": "v", "expire_time": -1, "ttl": 30, "overwrite_if_exists": False}
    exchanges = [
        (("GET", "/get_prefix?key_prefix=/w&keys_only=0"), (400, {"result": {}})),
        (("POST", "/set", item), (200, {"result": True})),
        (("POST", "/set", item), (400, {"result": False})),
        (("POST", "/set", {"key": "/w/2"}), (200, {"result": True})),
        (("GET", "/get?key=/w/1"), (200, {"result": "v"})),
        (("GET", "/get?key=%2Fw%2F1"), (200, {"result": "v"})),
        (("GET", "/get?key=/no"), (400, {"result": None})),
        (("GET", "/expire?key=/w/1&ttl=5"), (200, {"result": True})),
        (("GET", "/expire?key=/no&ttl=5"), (400, {"result": False})),
        (("GET", "/get_prefix?key_prefix=/w&keys_only=0"), (200, {"result": {"/w/1": "v", "/w/2": ""}})),
        (("GET", "/get_prefix?key_prefix=/w&keys_only=1"), (200, {"result": {"/w/1": "", "/w/2": ""}})),
        (("DELETE", "/delete?key=/w/1"), (200, {"result": True})),
        (("DELETE", "/delete?key=/w/1"), (400, {"result": False})),
    ]
    for call, wanted in exchanges:
        assert ask(storage.uri, *call) == wanted, call


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (("POST", "/set", []), 400),
        (("POST", "/set", {"value": "x"}), 400),
        (("POST", "/set", {"key": "k", "ttl": "soon"}), 400),
        (("POST", "/set", {"key": "k", "value": "x" * 70_000}), 413),
        (("GET", "/get"), 400),
        (("GET", "/expire?key=k&ttl=x"), 400),
        (("GET", "/set"), 405),
    ],
)
def test_what_the_storage_refuses(storage: Storage, call: tuple[Any, ...], status: int) -> None:
    got, said = ask(storage.uri, *call)
    assert got == status
    assert said["error"]


def test_without_the_token_nobody_is_heard() -> None:
    served = Storage(token="sesame")
    try:
        assert ask(served.uri, "POST", "/set", {"key": "a"})[0] == 403
        assert ask(served.uri, "POST", "/set", {"key": "a"}, Authorization="Bearer wrong")[0] == 403
        assert connect(served.uri, "sesame").set("a", "1")
        with pytest.raises(BackendRefused, match="token"):
            connect(served.uri, "wrong").get("a")
    finally:
        served.stop()


# ---- etcd in trouble ----------------------------------------------------------------------------------------------------


def test_a_watch_outlives_an_etcd_that_is_killed(etcd: EtcdServer) -> None:
    store = Etcd([etcd.endpoint])
    heard = Heard(Both(store, store, lambda: None))
    store.set(key("a"), "1")
    store.set(key("b"), "1")
    until(lambda: len(heard.map) == 2, "both")
    etcd.kill()
    etcd.start()
    store.delete(key("a"))
    store.set(key("c"), "1")
    until(lambda: heard.map == {key("b"): "1", key("c"): "1"}, "the changes after the restart")
    # b was there all the time, and nothing else was said about it
    assert [c.kind for c in heard.changes if c.key == key("b")] == [SET]
    heard.stop()


class LateWatcher(Etcd):
    """Takes so long from its first list to its watch that what came next was compacted away meanwhile."""

    late = True

    def listed(self, prefix: str) -> tuple[int, dict[str, str]]:
        """The first time, the empty list of long ago."""
        if self.late:
            self.late = False
            return 1, {}
        return super().listed(prefix)


def test_a_watch_outlives_compaction(etcd: EtcdServer) -> None:
    store = LateWatcher([etcd.endpoint])
    for number in range(5):
        store.set(key("a"), str(number), overwrite=True)
    revision, _ = Etcd([etcd.endpoint]).listed(PREFIX)
    store._call("kv/compaction", {"revision": str(revision), "physical": True})
    heard = Heard(Both(store, store, lambda: None))
    heard.until([(SET, "a")])
    assert heard.map == {key("a"): "4"}
    heard.stop()


def test_the_next_endpoint_is_asked_when_one_is_dead(etcd: EtcdServer) -> None:
    store = connect(f"etcd://127.0.0.1:9,etcd://{etcd.endpoint}")
    assert store.set(key("a"), "1")
    assert store.get(key("a")) == "1"


def test_a_watch_goes_on_at_the_next_member_when_its_own_dies(etcds: list[EtcdServer]) -> None:
    """Three members, and the one that is asked is killed: nothing is missed, and nobody is told to be gone who is there."""
    store = connect(",".join(f"etcd://{one.endpoint}" for one in etcds))
    assert isinstance(store, Etcd)
    heard = Heard(Both(store, store, lambda: None))
    assert store.set(key("a"), "1", ttl_s=60)
    until(lambda: heard.map == {key("a"): "1"}, "the first entry")
    etcds[0].kill()
    until(lambda: store.set(key("b"), "2", overwrite=True), "a write at another member")
    until(lambda: len(heard.map) == 2, "the entry that came after the death")
    assert store.expire(key("a"), 60)
    etcds[0].start()
    etcds[1].kill()
    until(lambda: store.delete(key("b")), "a removal at a third")
    until(lambda: heard.map == {key("a"): "1"}, "the removal")
    assert [change.kind for change in heard.changes if change.key == key("a")] == [SET]
    heard.stop()
