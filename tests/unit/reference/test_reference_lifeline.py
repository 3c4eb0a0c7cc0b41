"""The lifeline between a rank and its leader, over real sockets."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading

import pytest

from disagg_launch.reference import lifeline
from disagg_launch.reference.lifeline import LeaderEnd, RankEnd

PATIENCE_S = 30


@pytest.fixture
def heard() -> queue.SimpleQueue[object]:
    """What the leader hears and what it loses, in order."""
    return queue.SimpleQueue()


def tie(heard: queue.SimpleQueue[object], strangers: tuple[bytes, ...] = ()) -> tuple[LeaderEnd, RankEnd]:
    """Both ends of rank 1's lifeline, after some strangers have connected."""
    leader = LeaderEnd("127.0.0.1", 2)
    listening = threading.Thread(target=leader.listen, args=(heard.put, heard.put))
    listening.start()
    for raw in strangers:
        with socket.create_connection((leader.address.host, leader.address.port)) as stranger:
            stranger.sendall(raw)
    rank = RankEnd(leader.address, 1)
    listening.join(PATIENCE_S)
    assert not listening.is_alive()
    return leader, rank


def test_reports_arrive_in_order_and_an_orderly_end_is_no_alarm(heard: queue.SimpleQueue[object]) -> None:
    leader, rank = tie(heard)
    rank.report({"n": 1})
    rank.report({"n": 2})
    leader.report({"own": True})
    assert sorted((heard.get(timeout=PATIENCE_S) for _ in range(3)), key=str) == [{"n": 1}, {"n": 2}, {"own": True}]
    rank.close()
    rank._line.shutdown(socket.SHUT_RDWR)
    assert not [
        thread for thread in threading.enumerate() if thread.name == "lifeline-1" and (thread.join(PATIENCE_S) or thread.is_alive())
    ]
    assert heard.empty()


def test_a_rank_that_fails_says_why(heard: queue.SimpleQueue[object]) -> None:
    _, rank = tie(heard)
    rank.fail("no memory")
    assert heard.get(timeout=PATIENCE_S) == "rank 1 of this instance failed: no memory"


def test_a_rank_that_is_gone_is_noticed(heard: queue.SimpleQueue[object]) -> None:
    _, rank = tie(heard)
    rank._closed = True
    rank._line.shutdown(socket.SHUT_RDWR)
    assert heard.get(timeout=PATIENCE_S) == "rank 1 of this instance is gone"


def test_a_leader_on_an_ipv6_address_is_reached_too(heard: queue.SimpleQueue[object]) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6)) as trial:
        try:
            trial.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no ::1 on this machine")
    leader = LeaderEnd("::1", 2)
    rank = RankEnd(leader.address, 1)
    leader.listen(heard.put, heard.put)
    rank.report({"n": 1})
    assert heard.get(timeout=PATIENCE_S) == {"n": 1}
    rank.close()


def test_ranks_that_do_not_come_are_counted_and_told_where_they_were_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "PATIENCE_S", 0.05)
    leader = LeaderEnd("127.0.0.1", 4)
    with pytest.raises(TimeoutError, match=f"3 ranks .* 127.0.0.1:{leader.address.port} within 0.05 s"):
        leader.listen(lambda _: None, lambda _: None)


def test_strangers_are_turned_away(heard: queue.SimpleQueue[object]) -> None:
    _, rank = tie(heard, (b"", b"GET / HTTP/1.0\r\n\r\n", b'["guess", 1]\n', b"3\n", b"x" * 1000))
    rank.report({"n": 1})
    assert heard.get(timeout=PATIENCE_S) == {"n": 1}
    rank.close()
