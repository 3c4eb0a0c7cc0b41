"""A featherweight worker for rehearsals: the life of a real one (load, listen, be healthy, hand KV over, answer) without a model.

Started as `python -S -m disagg_launch.rehearse.worker SCRIPT --host H --port P`, without site-packages, so that hundreds fit on a laptop.
SCRIPT is JSON: how long this instance loads, and which faults happen to it when.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time

from disagg_launch.rehearse.answers import MODELS, Engine, Trouble
from disagg_launch.rehearse.wire import dumps, read_request, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Sequence

    Json = dict[str, Any]

STEPS = 10
OK, LYING, REFUSING = "ok", "lying", "refusing"


class Worker:
    """One rank. Only rank 0 of an instance listens."""

    def __init__(self, script: Json, host: str, port: int, environ: Mapping[str, str]) -> None:
        self.name, self.rank = environ["DISAGG_INSTANCE"], int(environ["DISAGG_INSTANCE_RANK"])
        mine = script["instances"][self.name]
        self.load_s = mine["load_s"]
        self.engine = Engine(self.name, (host, port), script["token_s"])
        life = count_life(os.path.join(environ["DISAGG_RUN"], "state", f"life.{self.name}.{self.rank}"))
        self.faults = [f for f in mine["faults"] if f["rank"] == self.rank and (not f["lives"] or life <= f["lives"])]
        self.healthy = False
        self.mood, self.status, self.delay_s = OK, 500, 0.0
        self.server: socket.socket
        self.open: set[socket.socket] = set()

    # ---- a life ---------------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """From the first word to the last; comes back never."""
        self.reach("starting")
        self.reach("loading")
        self.load()
        if self.rank == 0:
            self.server = socket.create_server(self.engine.address, backlog=512)
            threading.Thread(target=self.accept, daemon=True).start()
        self.reach("listening")
        self.healthy = True
        # the report reckons from this moment, by this clock
        self.reach("healthy", f" at {time.time():.4f}")
        while True:
            signal.pause()

    def load(self) -> None:
        """As engines do: say now and then how far it is."""
        slow_s = sum(f["seconds"] for f in self.faults if f["do"] == "slow")
        for step in range(STEPS):
            time.sleep((self.load_s + slow_s) / STEPS)
            say(f"loading weights: {(step + 1) * 100 // STEPS}%")

    def reach(self, stage: str, more: str = "") -> None:
        """A stage begins: what is to go wrong in it goes wrong."""
        say(stage + more)
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
            self.engine.drops_kv = True
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
                return self.engine.give_kv(connection, int(path[4:]))
            return whole(connection, 200, dumps(MODELS if path == "/v1/models" else {}))
        try:
            if self.mood != OK or not self.healthy:
                raise Trouble(self.status if self.mood != OK else 503, f"{self.name}: told to answer so")
            time.sleep(self.delay_s)
            return self.engine.complete(connection, path, headers, json.loads(body))
        except Trouble as wrong:
            error = {"object": "error", "message": wrong.text, "type": "Rehearsal", "param": None, "code": wrong.status}
            return whole(connection, wrong.status, dumps(error))


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
