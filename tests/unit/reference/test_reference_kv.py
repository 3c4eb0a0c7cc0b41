"""The KV port: who may fetch what, what happens to damaged, unfetched and unwanted caches."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from disagg_launch.reference import kv
from disagg_launch.reference.grid import Rect
from disagg_launch.reference.kv import Exports, TransferFailed
from disagg_launch.reference.ticket import Holder, Ticket, new_identity

RECT = Rect(2, 5, 1, 3)  # three layers, two KV heads
TOKENS, CAPACITY, HEAD_SIZE = 6, 9, 4


@pytest.fixture
def port() -> Iterator[Exports]:
    """A KV port on loopback."""
    exports = Exports("127.0.0.1", "127.0.0.1", RECT)
    yield exports
    exports.close()


@pytest.fixture
def cache() -> np.ndarray:
    """A cache whose every number is different."""
    shape = (3, 2, 2, CAPACITY, HEAD_SIZE)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def keep(port: Exports, cache: np.ndarray, timeout_s: float = 60.0) -> Ticket:
    """The ticket for a cache that the port now keeps."""
    request, key = new_identity()
    port.keep(request, key, cache, TOKENS, timeout_s)
    return Ticket(request, key, TOKENS, "model", (port.holder,))


def fetch(ticket: Ticket, rect: Rect) -> np.ndarray:
    """What a rank with that rectangle gets."""
    shape = (rect.layer1 - rect.layer0, 2, rect.head1 - rect.head0, CAPACITY, HEAD_SIZE)
    target = np.zeros(shape, np.float32)
    kv.pull(ticket, rect, target, timeout_s=10)
    return target


def until(condition: Callable[[], bool]) -> bool:
    """True once the condition holds; False if it does not within half a minute."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_ticket_survives_its_text() -> None:
    ticket = Ticket(2**62 + 1, "ab" * 32, 7, "m", (Holder("h", 1, RECT), Holder("g", 2, Rect(0, 2, 1, 3))))
    assert Ticket.decode(ticket.encode()) == ticket


@pytest.mark.parametrize("text", ["", "!!", "e30=", "W10=", "eyJyZXF1ZXN0Ijp7fX0=", Ticket(1, "zz", 1, "", ()).encode()])
def test_other_texts_are_no_tickets(text: str) -> None:
    with pytest.raises(ValueError, match="encoded_opaque_state"):
        Ticket.decode(text)


def test_identities_are_never_repeated_and_fit_a_signed_64_bit_number() -> None:
    identities = {new_identity() for _ in range(1000)}
    assert len({request for request, _ in identities}) == len({key for _, key in identities}) == 1000
    assert all(0 < request < 2**63 and len(bytes.fromhex(key)) == 32 for request, key in identities)


def test_exactly_the_wanted_rectangle_comes(port: Exports, cache: np.ndarray) -> None:
    got = fetch(keep(port, cache), Rect(3, 5, 2, 3))
    assert np.array_equal(got[..., :TOKENS, :], cache[1:, :, 1:, :TOKENS])
    assert not got[..., TOKENS:, :].any()


def test_a_rectangle_is_put_together_from_several_holders(cache: np.ndarray) -> None:
    parts = [Rect(2, 4, 1, 2), Rect(2, 4, 2, 3), Rect(4, 5, 1, 2), Rect(4, 5, 2, 3)]
    ports = [Exports("127.0.0.1", "127.0.0.1", rect) for rect in parts]
    try:
        request, key = new_identity()
        for port, rect in zip(ports, parts, strict=True):
            port.keep(request, key, cache[rect.layer0 - 2 : rect.layer1 - 2, :, rect.head0 - 1 : rect.head1 - 1], TOKENS, 60)
        ticket = Ticket(request, key, TOKENS, "", tuple(port.holder for port in ports))
        assert np.array_equal(fetch(ticket, RECT)[..., :TOKENS, :], cache[..., :TOKENS, :])
        kv.release(ticket)
        assert until(lambda: not any(port.count for port in ports))
    finally:
        for port in ports:
            port.close()


def test_holders_that_leave_a_gap_are_refused() -> None:
    with pytest.raises(TransferFailed, match="do not cover"):
        kv.sources([Holder("h", 1, Rect(0, 2, 0, 2)), Holder("h", 2, Rect(2, 4, 0, 1))], Rect(0, 4, 0, 2))


def test_a_kv_head_held_twice_is_taken_once() -> None:
    holders = [Holder("h", n, Rect(0, 4, n // 2, n // 2 + 1)) for n in range(4)]
    assert [(holder.port, rect) for holder, rect in kv.sources(holders, Rect(1, 3, 0, 2))] == [(0, Rect(1, 3, 0, 1)), (2, Rect(1, 3, 1, 2))]


def test_a_wrong_key_and_an_unknown_request_get_the_same_answer(port: Exports, cache: np.ndarray) -> None:
    ticket = keep(port, cache)
    messages = set()
    for wrong in (replace(ticket, key="00" * 32), replace(ticket, request=ticket.request ^ 1)):
        with pytest.raises(TransferFailed) as refused:
            fetch(wrong, RECT)
        messages.add(str(refused.value).replace(str(wrong.request), "ID"))
        kv.release(wrong)
    assert len(messages) == 1
    assert port.count == 1


def test_a_question_heard_on_the_wire_is_worth_nothing_on_another_connection(port: Exports, cache: np.ndarray) -> None:
    ticket = keep(port, cache)
    with socket.create_connection((port.holder.host, port.holder.port)) as first:
        asked = {"do": "free", "request": ticket.request}
        question = json.dumps({**asked, "mac": kv._mac(bytes.fromhex(ticket.key), first.recv(16), asked)}).encode()
    with socket.create_connection((port.holder.host, port.holder.port)) as second:
        second.recv(16)
        second.sendall(struct.pack("!I", len(question)) + question)
        second.settimeout(10)
        assert b"unknown request or wrong key" in second.recv(4096)
    assert port.count == 1


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{}", b"GET / HTTP/1.0\r\n\r\n", b'\0\0\0\x0e{"request":[]}']
)
def test_rubbish_does_not_disturb_the_port(raw: bytes, port: Exports, cache: np.ndarray) -> None:
    with socket.create_connection((port.holder.host, port.holder.port)) as stranger:
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionError):
            stranger.sendall(raw)
            with contextlib.suppress(OSError):  # the port may have hung up already
                stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert np.array_equal(fetch(keep(port, cache), RECT)[..., :TOKENS, :], cache[..., :TOKENS, :])


def test_more_than_is_held_is_not_sent(port: Exports, cache: np.ndarray) -> None:
    ticket = keep(port, cache)
    lie = replace(ticket, holders=(replace(port.holder, rect=Rect(0, 9, 0, 9)),))
    with pytest.raises(TransferFailed):
        fetch(lie, Rect(0, 3, 0, 1))


def test_an_unfetched_cache_is_freed_after_its_time(port: Exports, cache: np.ndarray) -> None:
    freed: list[int] = []
    port.freed = freed.append
    ticket = keep(port, cache, timeout_s=0.05)
    assert until(lambda: freed == [ticket.request])
    assert port.count == 0
    with pytest.raises(TransferFailed, match="unknown request"):
        fetch(ticket, RECT)


def test_release_frees_at_once_and_only_that_request(port: Exports, cache: np.ndarray) -> None:
    first, second = keep(port, cache), keep(port, cache)
    kv.release(first)
    kv.release(first)
    assert port.count == 1
    fetch(second, RECT)


class Damage:
    """A relay in front of a KV port that flips one bit of what the port sends, `at` bytes from the start."""

    def __init__(self, target: Holder, at: int) -> None:
        self._target, self._at = target, at
        self._server = socket.create_server(("127.0.0.1", 0))
        self.holder = replace(target, port=self._server.getsockname()[1])
        threading.Thread(target=self._relay, daemon=True).start()

    def _relay(self) -> None:
        client, _ = self._server.accept()
        server = socket.create_connection((self._target.host, self._target.port))
        threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
        seen = 0
        with contextlib.suppress(OSError):
            while chunk := bytearray(server.recv(65536)):
                if seen <= self._at < seen + len(chunk):
                    chunk[self._at - seen] ^= 16
                seen += len(chunk)
                client.sendall(chunk)
        client.close()
        server.close()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(65536):
                server.sendall(chunk)

    def close(self) -> None:
        """Stop listening."""
        self._server.close()


def test_one_damaged_bit_fails_the_transfer(port: Exports, cache: np.ndarray) -> None:
    ticket = keep(port, cache)
    block = 2 * 2 * TOKENS * HEAD_SIZE * 4
    answer = 16 + 4 + len(json.dumps({"tokens": TOKENS}))
    for at in (answer + 5, answer + block + 4 + 77, answer + block + 1):
        relay = Damage(port.holder, at)
        with pytest.raises(TransferFailed, match="checksum"):
            fetch(replace(ticket, holders=(relay.holder,)), RECT)
        relay.close()


def test_a_holder_that_is_silent_or_gone_fails_the_transfer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        holder = Holder("127.0.0.1", silent.getsockname()[1], RECT)
        with pytest.raises(TransferFailed, match="timed out"):
            kv.pull(Ticket(1, "00", 1, "", (holder,)), RECT, np.zeros((3, 2, 2, 1, 1), np.float32), timeout_s=0.1)
    with pytest.raises(TransferFailed, match="refused"):
        kv.pull(Ticket(1, "00", 1, "", (holder,)), RECT, np.zeros((3, 2, 2, 1, 1), np.float32), timeout_s=5)


def test_connections_that_say_nothing_delay_neither_the_freeing_nor_the_end(
    port: Exports, cache: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv, "PATIENCE_S", 600.0)
    with contextlib.ExitStack() as strangers:
        for _ in range(kv.CONNECTIONS + 1):
            strangers.enter_context(socket.create_connection((port.holder.host, port.holder.port)))
        assert until(lambda: port._open._value == 0)  # every connection that is served at once
        keep(port, cache, timeout_s=0.05)
        assert until(lambda: port.count == 0)
        end = threading.Thread(target=port.close, daemon=True)
        end.start()
        end.join(60)
        assert not end.is_alive()


def test_a_time_is_over_also_for_a_peer_that_says_a_little_again_and_again(port: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte in time, so that no read times out by itself: a holder in front of a pull, and a stranger in front of the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        holder = Holder("127.0.0.1", server.getsockname()[1], RECT)
        threading.Thread(target=lambda: trickle(server.accept()[0], bytes(16)), daemon=True).start()
        with pytest.raises(TransferFailed, match="timed out"):
            kv.pull(Ticket(1, "00", 1, "", (holder,)), RECT, np.zeros((3, 2, 2, 1, 1), np.float32), timeout_s=0.5)
    monkeypatch.setattr(kv, "PATIENCE_S", 0.5)
    with socket.create_connection((port.holder.host, port.holder.port)) as stranger:
        trickle(stranger)


def trickle(line: socket.socket, before: bytes = b"") -> None:
    """Begin a message of 4095 bytes, and send ten of them a second until the other side has hung up."""
    with line, contextlib.suppress(OSError):
        line.sendall(before + b"\0\0\x0f\xff")
        while True:
            line.sendall(b" ")
            time.sleep(0.1)
