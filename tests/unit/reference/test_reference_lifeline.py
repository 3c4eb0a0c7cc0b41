"""The lifeline between a rank and its leader, over real sockets."""

from __future__ import annotations

import queue
import socket
import threading

import pytest

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


def test_strangers_are_turned_away(heard: queue.SimpleQueue[object]) -> None:
    _, rank = tie(heard, (b"", b"GET / HTTP/1.0\r\n\r\n", b'["guess", 1]\n', b"3\n", b"x" * 1000))
    rank.report({"n": 1})
    assert heard.get(timeout=PATIENCE_S) == {"n": 1}
    rank.close()
