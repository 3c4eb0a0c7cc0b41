"""The engine of a featherweight worker: completions, whole or streamed, and KV that a generation worker fetches from its context worker.

Standard library only.
"""

from __future__ import annotations

import json
import socket
import time

from disagg_launch.rehearse.tokens import encode, generated, next_token, text_of
from disagg_launch.rehearse.wire import chunk, dumps, read_rest, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Sequence

    Json = dict[str, Any]

WAIT_S = 30.0
MODELS = {"object": "list", "data": [{"id": "rehearsal", "object": "model", "created": 0, "owned_by": "rehearsal"}]}


class Trouble(Exception):
    """A request cannot be answered: HTTP status and what to say."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Engine:
    """What one worker has kept for others, and how it answers. `address` is where it listens itself."""

    def __init__(self, name: str, address: tuple[str, int], token_s: float) -> None:
        self.name, self.address, self.token_s = name, address, token_s
        self.drops_kv = False
        self.kept: dict[int, list[int]] = {}
        self.requests = 0

    def complete(self, connection: socket.socket, path: str, headers: Mapping[str, str], asked: Json) -> None:
        """Send a context answer with the whereabouts of the KV, or the text. Trouble if that cannot be."""
        self.requests += 1
        chat = path.endswith("/chat/completions")
        params = asked.get("disaggregated_params") or {}
        prompt = asked.get("prompt_token_ids") or asked["messages"] if chat else asked["prompt"]
        ids = encode(prompt)
        if params.get("request_type") == "context_only":
            return whole(connection, 200, dumps(self.prefill(ids, params.get("disagg_request_id"), chat)))
        if params.get("request_type") == "generation_only" and self.fetch_kv(params) != ids:
            raise Trouble(500, "the KV is that of another prompt")
        tokens = list(generated(ids, asked.get("max_tokens") or asked.get("max_completion_tokens") or 16))
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens), "total_tokens": len(ids) + len(tokens)}
        head = {"id": f"{self.name}-{self.requests}", "created": int(time.time()), "model": "rehearsal"}
        if asked.get("stream"):
            return self.stream(connection, head, tokens, usage, chat, headers.get("x-return-token-ids") == "1")
        time.sleep(self.token_s * len(tokens))
        return whole(connection, 200, dumps(answer_of(head, chat, "".join(map(text_of, tokens)), usage)))

    def stream(self, connection: socket.socket, head: Json, tokens: Sequence[int], usage: Json, chat: bool, with_ids: bool) -> None:
        """The tokens one by one."""
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
        for at, token in enumerate(tokens):
            text = text_of(token)
            choice: Json = {"index": 0, "finish_reason": "length" if at == len(tokens) - 1 else None}
            choice.update({"delta": {"role": "assistant", "content": text}} if chat else {"text": text})
            if with_ids:
                choice["token_ids"] = [token]
            chunk(connection, b"data: " + dumps({**head, "object": "chunk", "choices": [choice]}) + b"\n\n")
            time.sleep(self.token_s)
        chunk(connection, b"data: " + dumps({**head, "object": "chunk", "choices": [], "usage": usage}) + b"\n\ndata: [DONE]\n\n")
        connection.sendall(b"0\r\n\r\n")

    def prefill(self, ids: list[int], number: Optional[int], chat: bool) -> Json:
        """The context-only answer; what the other side has to fetch is kept."""
        number = number or len(self.kept) + 1
        self.kept[number] = ids
        first = next_token(ids)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1, "total_tokens": len(ids) + 1}
        made = answer_of({"id": f"{self.name}-{self.requests}", "created": 0, "model": "rehearsal"}, chat, text_of(first), usage)
        made["choices"][0]["disaggregated_params"] = {
            "request_type": "context_only", "first_gen_tokens": [first], "ctx_request_id": number, "disagg_request_id": number,
            "encoded_opaque_state": "{}:{}".format(*self.address),
        }  # fmt: skip
        return {**made, "prompt_token_ids": ids}

    def give_kv(self, connection: socket.socket, number: int) -> None:
        """What was kept for a request, once."""
        ids = self.kept.pop(number, None)
        if self.drops_kv:
            connection.shutdown(socket.SHUT_RDWR)
        elif ids is None:
            whole(connection, 404, b"")
        else:
            whole(connection, 200, dumps(ids))

    def fetch_kv(self, params: Json) -> Any:
        """The other side of `give_kv`. Trouble when it fails."""
        host, _, port = params["encoded_opaque_state"].rpartition(":")
        try:
            with socket.create_connection((host, int(port)), WAIT_S) as peer, peer.makefile("rb") as reader:
                peer.settimeout(WAIT_S)
                peer.sendall(b"GET /kv/%d HTTP/1.1\r\nhost: x\r\n\r\n" % params["ctx_request_id"])
                status = reader.readline().split(b" ")[1]
                _, body = read_rest(reader)
                if status != b"200":
                    raise ValueError(status.decode())
                return json.loads(body)
        except (OSError, ValueError, IndexError) as wrong:
            print(f"KV transfer from {host}:{port} failed: {wrong}", flush=True)
            raise Trouble(500, f"{self.name}: KV transfer from {host}:{port} failed") from None


def answer_of(head: Json, chat: bool, text: str, usage: Json) -> Json:
    """A whole completion."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    kind = "chat.completion" if chat else "text_completion"
    return {**head, "object": kind, "choices": [{"index": 0, "finish_reason": "length", **said}], "usage": usage}
