"""Workers that are asked by themselves, over real connections: what is an answer, and that a question keeps its place."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from disagg_launch.launch import Policy, Worker
from disagg_launch.runtime.asking import OneByOne
from disagg_launch.runtime.record import Record

LONG_S, SHORT_S = 60.0, 0.05


class Server:
    """Answers every request with `status`, those for tokens not before it may."""

    def __init__(self, status: int) -> None:
        self.status, self.may = status, asyncio.Event()
        self.asked: list[tuple[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")), 0)
        body = await reader.readexactly(length)
        path = head.split()[1]
        if path == "/v1/models":
            status, said = 200, b'{"data": [{"id": "m"}]}'
        else:
            self.asked.append((path, json.loads(body) if body else None))
            await self.may.wait()
            status, said = self.status, b"{}"
        writer.write(b"HTTP/1.1 %d -\r\ncontent-length: %d\r\n\r\n%b" % (status, len(said), said))
        writer.close()


def played(status: int, path: str) -> tuple[list[bool], Server]:
    """Whether the worker had answered in a round in which it might not, and in one in which it might."""

    async def scene() -> tuple[list[bool], Server]:
        server = Server(status)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        one = Record("gen0", "127.0.0.1", listening.sockets[0].getsockname()[1], "", role="generation")
        launch = SimpleNamespace(workers=(Worker("gen0", (), answers_at=path),), policy=Policy(hang_s=LONG_S))
        asking = OneByOne(SimpleNamespace(launch=launch))  # type: ignore[arg-type]
        assert asking.can_ask(one) == bool(path)
        first = await asking.answered([one], SHORT_S)
        server.may.set()
        second = await asking.answered([one], LONG_S)
        listening.close()
        return ["gen0" in first, "gen0" in second], server

    return asyncio.run(scene())


@pytest.mark.parametrize("path", ["/health_generate", "/v1/completions"])
def test_a_question_that_was_not_answered_in_one_round_waits_for_its_answer_in_the_next(path: str) -> None:
    answered, server = played(200, path)
    assert answered == [False, True]
    [(asked, message)] = server.asked
    assert asked == path
    assert message == ({"model": "m", "prompt": "Say yes.", "max_tokens": 1, "temperature": 0} if path == "/v1/completions" else None)


@pytest.mark.parametrize(("status", "is_answer"), [(200, True), (404, True), (429, True), (500, False), (503, False)])
def test_what_is_an_answer(status: int, is_answer: bool) -> None:
    assert played(status, "/health_generate")[0] == [False, is_answer]


def test_of_whom_nothing_is_known_nothing_is_asked() -> None:
    launch = SimpleNamespace(workers=(Worker("gen0", ()),), policy=Policy())
    assert not OneByOne(SimpleNamespace(launch=launch)).can_ask(Record("gen0", "127.0.0.1", 1, ""))  # type: ignore[arg-type]
