"""A worker that speaks the wire protocol strictly and computes nothing: each token is a hash of all tokens before it.

So a stream is right to the last token only if every id reached the generation worker, in order and once. Runs inside a test
(`StandIn`) or as a process that can be killed: `python standin.py context|generation PORT [pause_s]`, which says when it listens. PORT may
be held for it by who starts it (SO_REUSEPORT).
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from typing import Any

KNOWN = {
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "temperature", "top_p", "seed", "n",
    "stop", "logprobs", "disaggregated_params", "prompt_token_ids", "ignore_eos", "tools", "user",
}  # fmt: skip


LOST = "LOST"


def next_token(ids: list[int]) -> int:
    return zlib.crc32(",".join(map(str, ids)).encode()) % 997 + 3


def text_of(token: int) -> str:
    return f" t{token}"


def expected(prompt: Any, count: int) -> str:
    """The whole text for a prompt (a string, a list of ids, or messages)."""
    ids = encode(prompt)
    for _ in range(count):
        ids.append(next_token(ids))
    return "".join(map(text_of, ids[len(ids) - count :]))


def encode(prompt: Any) -> list[int]:
    if isinstance(prompt, list) and all(isinstance(i, int) for i in prompt):
        return list(prompt)
    return list((prompt if isinstance(prompt, str) else json.dumps(prompt)).encode())


class StandIn:
    """One worker. `mode` (ok, 400, 500, 503, slow, hang, garbage, die, cut, stall, lost) is what the next requests meet.

    `lost`: a context worker's KV cannot be fetched. `seen` are the requests' bodies.
    """

    def __init__(self, role: str, pause_s: float = 0.0) -> None:
        self.role = role
        self.pause_s = pause_s
        self.mode = "ok"
        self.die_after = 3
        self.pad = ""  # makes chunks bigger
        self.seen: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.aborted = 0
        self.sent = 0  # pieces of streams
        self.held: set[int] = set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0, shared: bool = False) -> StandIn:
        """Listen; `shared`: at a port that somebody may hold for it with SO_REUSEPORT."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port or self.port, reuse_port=shared)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """As a killed process: the port is closed and every connection reset."""
        if self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._route(head[0].split(" "), headers, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _route(self, line: list[str], headers: dict[str, str], raw: bytes, reader: Any, writer: Any) -> None:
        if line[0] == "GET":
            body = {"object": "list", "data": [{"id": "stand-in", "object": "model", "created": 1, "owned_by": "tests"}]}
            return _whole(writer, 200, body if line[1] == "/v1/models" else {})
        body = json.loads(raw)
        self.seen.append(body)
        self.heads.append(headers)
        unknown = set(body) - KNOWN
        if unknown:
            return _whole(
                writer,
                400,
                {"object": "error", "message": f"extra inputs: {unknown}", "type": "BadRequestError", "param": None, "code": 400},
            )
        if self.mode.isdigit():
            return _whole(
                writer, int(self.mode), {"object": "error", "message": "told to", "type": "ToldTo", "param": None, "code": int(self.mode)}
            )
        if self.mode == "garbage":
            writer.write(b"\x00\xffnot http at all\r\n\r\n")
            return None
        if self.mode in ("slow", "hang") and await _left_within(reader, 0.3 if self.mode == "slow" else 3600):
            self.aborted += 1
            raise ConnectionResetError
        if self.mode == "die" and self.role == "context":
            writer.transport.abort()
            raise ConnectionResetError
        return await (self._context if self.role == "context" else self._generation)(line[1], headers, body, reader, writer)

    async def _context(self, path: str, headers: dict[str, str], body: dict[str, Any], reader: Any, writer: Any) -> None:
        params = body.get("disaggregated_params") or {}
        if params.get("request_type") != "context_only" or body.get("stream"):
            return _whole(writer, 400, {"message": "not a context request", "type": "BadRequestError", "code": 400})
        chat = "chat" in path
        ids = encode(body.get("prompt_token_ids") or body["messages"] if chat else body["prompt"])
        first = next_token(ids)
        self.held.add(params["disagg_request_id"])
        out = {
            "request_type": "context_only",
            "first_gen_tokens": [first],
            "ctx_request_id": params["disagg_request_id"],
            "encoded_opaque_state": LOST if self.mode == "lost" else "AAAA",
        }
        out["disagg_request_id"] = params["disagg_request_id"]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop" if body.get("stop") == "now" else "length",
            "disaggregated_params": out,
        }
        choice.update({"message": {"role": "assistant", "content": text_of(first)}} if chat else {"text": text_of(first)})
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        return _whole(
            writer,
            200,
            {"id": "c-1", "object": "x", "created": 1, "model": "stand-in", "choices": [choice], "usage": usage, "prompt_token_ids": ids},
        )

    async def _generation(self, path: str, headers: dict[str, str], body: dict[str, Any], reader: Any, writer: Any) -> None:
        params = body.get("disaggregated_params")
        chat = "chat" in path
        if params is not None and (params["request_type"] != "generation_only" or params.get("ctx_request_id") is None):
            _whole(writer, 400, {"message": "not a generation request", "type": "BadRequestError", "code": 400})
            return
        if params is not None and params.get("encoded_opaque_state") == LOST:
            _whole(writer, 500, {"message": "the KV could not be fetched", "type": "InternalError", "code": 500})
            return
        ids = encode((body.get("prompt_token_ids") or body["messages"]) if chat else body["prompt"])
        prompt = len(ids)
        for _ in range(body.get("max_tokens") or body.get("max_completion_tokens") or 16):
            ids.append(next_token(ids))
        tokens = ids[prompt:]
        usage = {"prompt_tokens": prompt, "completion_tokens": len(tokens), "total_tokens": len(ids)}
        base = {"id": f"g-{self.port}-{len(self.seen)}", "created": 1, "model": "stand-in", **({"pad": self.pad} if self.pad else {})}
        if body.get("stream"):
            with_usage = (body.get("stream_options") or {}).get("include_usage")
            with_ids = headers.get("x-return-token-ids") == "1"
            await self._stream(base, tokens, usage if with_usage else None, chat, with_ids, reader, writer)
            return
        await self._pause(reader, self.pause_s * len(tokens))
        text = "".join(map(text_of, tokens))
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length", **said}
        kind = "chat.completion" if chat else "text_completion"
        _whole(writer, 200, {**base, "object": kind, "choices": [choice], "usage": usage})

    async def _stream(self, base: Any, tokens: list[int], usage: Any, chat: bool, with_ids: bool, reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
        for i, token in enumerate(tokens):
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if i == len(tokens) - 1 else None}
            if chat:
                choice["delta"] = {"content": text_of(token), **({} if i else {"role": "assistant"})}
            else:
                choice["text"] = text_of(token)
            if with_ids:
                choice["token_ids"] = [token]
            data = _event({**base, "object": "chunk", "choices": [choice]})
            if self.mode in ("die", "cut", "stall") and i == self.die_after:
                await self._end_badly(data, reader, writer)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
            self.sent += 1
            await self._pause(reader, self.pause_s)
        tail = (_event({**base, "object": "chunk", "choices": [], "usage": usage}) if usage else b"") + b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        await writer.drain()

    async def _pause(self, reader: Any, seconds: float) -> None:
        if seconds and await _left_within(reader, seconds):
            self.aborted += 1
            raise ConnectionResetError

    async def _end_badly(self, data: bytes, reader: Any, writer: Any) -> None:
        """Die in the middle of an event, or stop cleanly too early (cut), or say nothing more (stall)."""
        if self.mode == "stall":
            await _left_within(reader, 3600)
        elif self.mode == "cut":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        else:
            half = data[: len(data) // 2]
            writer.write(b"%x\r\n%b\r\n" % (len(half), half))
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
        raise ConnectionResetError


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def _left_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the client closed its connection within this time."""
    try:
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    except asyncio.TimeoutError:
        return False


def _whole(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body, separators=(",", ":")).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(raw), raw))


async def _main() -> None:
    await StandIn(sys.argv[1], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0).start(int(sys.argv[2]), shared=True)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
