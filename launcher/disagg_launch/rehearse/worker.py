"""A featherweight worker for rehearsals: the life of a real one (load, listen, be healthy, hand KV over, answer) without a model.

Runs alone (`python -I -S worker.py SCRIPT --host H --port P`), so it imports little and hundreds fit on a laptop. Each token is a hash of
all tokens before it, and a generation worker gets those only by fetching them from the context worker: an answer is right to its last
token, or something was lost. SCRIPT is JSON: how long this instance loads, and which faults happen to it when.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any, Iterator, Mapping, Optional, Sequence

    Json = dict[str, Any]

STEPS = 10
WAIT_S = 30.0
OK, LYING, REFUSING = "ok", "lying", "refusing"


class Trouble(Exception):
    """A request cannot be answered: HTTP status and what to say."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Worker:
    """One rank. Only rank 0 of an instance listens."""

    def __init__(self, script: Json, host: str, port: int, environ: Mapping[str, str]) -> None:
        self.name, self.role = environ["DISAGG_INSTANCE"], environ["DISAGG_ROLE"]
        self.rank = int(environ["DISAGG_INSTANCE_RANK"])
        mine = script["instances"][self.name]
        self.load_s, self.token_s = mine["load_s"], script["token_s"]
        self.address = host, port
        life = count_life(os.path.join(environ["DISAGG_RUN"], "state", f"life.{self.name}.{self.rank}"))
        self.faults = [f for f in mine["faults"] if f["rank"] == self.rank and (not f["lives"] or life <= f["lives"])]
        self.healthy = False
        self.mood, self.status, self.delay_s = OK, 500, 0.0
        self.drops_kv = False
        self.kept: dict[int, list[int]] = {}
        self.requests = 0
        self.server: socket.socket
        self.open: set[socket.socket] = set()

    # ---- a life ---------------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """From the first word to the last; comes back never."""
        self.reach("starting")
        self.reach("loading")
        self.load()
        if self.rank == 0:
            self.server = socket.create_server(self.address, backlog=512)
            threading.Thread(target=self.accept, daemon=True).start()
        self.reach("listening")
        self.healthy = True
        self.reach("healthy")
        while True:
            signal.pause()

    def load(self) -> None:
        """As engines do: say now and then how far it is."""
        slow_s = sum(f["seconds"] for f in self.faults if f["do"] == "slow")
        for step in range(STEPS):
            time.sleep((self.load_s + slow_s) / STEPS)
            say(f"loading weights: {(step + 1) * 100 // STEPS}%")

    def reach(self, stage: str) -> None:
        """A stage begins: what is to go wrong in it goes wrong."""
        say(stage)
        for fault in self.faults:
            if fault["at"] == stage and fault["do"] != "slow":
                if fault["after_s"]:
                    timer = threading.Timer(fault["after_s"], self.suffer, (fault,))
                    timer.daemon = True
                    timer.start()
                else:
                    self.suffer(fault)

    def suffer(self, fault: Json) -> None:
        """One fault happens."""
        do = fault["do"]
        say(f"rehearsal: {do}")
        if do == "die":
            if fault["signal"]:
                os.kill(os.getpid(), getattr(signal, fault["signal"]))
            say(fault["says"])
            os._exit(fault["code"])
        elif do == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif do == "lose_port":
            # closing alone would not wake the threads that wait in accept and recv
            for one in (self.server, *tuple(self.open)):
                one.shutdown(socket.SHUT_RDWR)
            self.server.close()
        elif do == "drop_kv":
            self.drops_kv = True
        elif do == "delay":
            self.delay_s = fault["seconds"]
        else:
            self.mood, self.status = (LYING, 503) if do == "lie" else (REFUSING, fault["status"])
            self.healthy = self.healthy or do == "lie"

    # ---- HTTP -----------------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """A thread for each connection, until the port is lost."""
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        """Answer one request after the other, until the other side leaves."""
        self.open.add(connection)
        with connection, connection.makefile("rb") as reader:
            try:
                while (asked := read_request(reader)) is not None:
                    self.answer(connection, *asked)
            except (OSError, ValueError, KeyError):
                return
            finally:
                self.open.discard(connection)

    def answer(self, connection: socket.socket, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """One answer."""
        if method == "GET":
            if path == "/health":
                return whole(connection, 200 if self.healthy else 503, b"")
            if path.startswith("/kv/"):
                return self.give_kv(connection, int(path[4:]))
            models = {"object": "list", "data": [{"id": "rehearsal", "object": "model", "created": 0, "owned_by": "rehearsal"}]}
            return whole(connection, 200, dumps(models if path == "/v1/models" else {}))
        try:
            if self.mood != OK or not self.healthy:
                raise Trouble(self.status if self.mood != OK else 503, f"{self.name}: told to answer so")
            time.sleep(self.delay_s)
            self.requests += 1
            return self.complete(connection, path, headers, json.loads(body))
        except Trouble as wrong:
            error = {"object": "error", "message": wrong.text, "type": "Rehearsal", "param": None, "code": wrong.status}
            return whole(connection, wrong.status, dumps(error))

    def complete(self, connection: socket.socket, path: str, headers: Mapping[str, str], asked: Json) -> None:
        """A context answer with the whereabouts of the KV, or the text."""
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

    # ---- KV -------------------------------------------------------------------------------------------------------------

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
            say(f"KV transfer from {host}:{port} failed: {wrong}")
            raise Trouble(500, f"{self.name}: KV transfer from {host}:{port} failed") from None


def answer_of(head: Json, chat: bool, text: str, usage: Json) -> Json:
    """A whole completion."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    kind = "chat.completion" if chat else "text_completion"
    return {**head, "object": kind, "choices": [{"index": 0, "finish_reason": "length", **said}], "usage": usage}


def encode(prompt: Any) -> list[int]:
    """Token ids of a prompt: as they are, or the bytes of a text or of messages."""
    if isinstance(prompt, list) and all(isinstance(one, int) for one in prompt):
        return prompt
    return list((prompt if isinstance(prompt, str) else json.dumps(prompt)).encode())


def next_token(ids: Sequence[int]) -> int:
    """The one token that follows these."""
    return zlib.crc32(",".join(map(str, ids)).encode()) % 997 + 3


def text_of(token: int) -> str:
    """What a token reads like."""
    return f" t{token}"


def generated(ids: Sequence[int], count: int) -> Iterator[int]:
    """The tokens that follow `ids`."""
    known = list(ids)
    for _ in range(count):
        known.append(next_token(known))
        yield known[-1]


def expected(prompt: Any, count: int) -> str:
    """The whole text that follows a prompt."""
    return "".join(map(text_of, generated(encode(prompt), count)))


def read_request(reader: IO[bytes]) -> Optional[tuple[str, str, dict[str, str], bytes]]:
    """(method, path, headers, body); None at the end of the connection."""
    words = reader.readline(65536).decode("latin-1").split()
    if len(words) < 2:
        return None
    headers, body = read_rest(reader)
    return words[0], words[1], headers, body


def read_rest(reader: IO[bytes]) -> tuple[dict[str, str], bytes]:
    """(headers, body) of a message behind its first line."""
    headers = {}
    while line := reader.readline(65536).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return headers, reader.read(int(headers.get("content-length", 0)))


def whole(connection: socket.socket, status: int, body: bytes) -> None:
    """Send a whole answer."""
    head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    connection.sendall(head + body)


def chunk(connection: socket.socket, data: bytes) -> None:
    """Send a piece of a stream."""
    connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))


def dumps(value: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def count_life(path: str) -> int:
    """Which life this is, from 1: restarts are lives of their own."""
    with open(path, "ab") as file:
        file.write(b".")
    return os.path.getsize(path)


def say(text: str) -> None:
    """A line of log."""
    print(text, flush=True)


def main(words: Sequence[str]) -> None:
    """SCRIPT --host H --port P."""
    flags = dict(zip(words[1::2], words[2::2]))
    with open(words[0], encoding="utf-8") as file:
        script = json.load(file)
    Worker(script, flags["--host"], int(flags["--port"]), os.environ).live()


if __name__ == "__main__":
    main(sys.argv[1:])
