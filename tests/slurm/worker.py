#!/usr/bin/env python3
"""A worker that can do what a model server does wrong: the first rank answers HTTP, and every rank ends as it is told.

worker.py --host H --port P [--hang]        /health, /who, /exit?code=3, /kill (itself, SIGKILL), /kill-peer?rank=1
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RANK = int(os.environ.get("DISAGG_INSTANCE_RANK", "0"))
NAMES = ("INSTANCE", "ROLE", "RANK", "INSTANCE_RANK", "TP_RANK", "PP_RANK")


class Handler(BaseHTTPRequestHandler):
    """Says who this is, or ends it."""

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        if url.path == "/exit":
            os._exit(int(parse_qs(url.query)["code"][0]))
        if url.path == "/kill":
            os.kill(os.getpid(), signal.SIGKILL)
        body = json.dumps(who()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: probes would fill the log."""


def who() -> dict[str, str]:
    """What this process was told it is."""
    told = {name.lower(): os.environ.get(f"DISAGG_{name}", "") for name in NAMES}
    return {**told, "host": socket.gethostname(), "pid": str(os.getpid()), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "none")}


def leave(*_: object) -> None:
    """Say good-bye: a test sees by this line that the end was asked for, not forced."""
    print("leaving in order", flush=True)
    os._exit(0)


def main() -> None:
    """Serve, or wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--out", default="", help="folder for one file per rank")
    # it stands in for engines too, whose further options are nothing to it
    parser.add_argument("--second-ends", action="store_true", help="the instance's second rank ends at once")
    parser.add_argument("--grow-s", type=float, default=0, help="load for ever: take memory for so long without a word, then nothing more")
    options, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, leave)
    print(f"rank {RANK} on {socket.gethostname()}", flush=True)
    if RANK == 1:
        # a daemon that cares for nobody: it has to be gone, too, when the deployment has ended
        subprocess.Popen(["sleep", "4000"], start_new_session=True)
    if RANK == 1 and options.second_ends:
        print("the model is broken", flush=True)
        os._exit(3)
    if options.grow_s:
        held, until = [], time.monotonic() + options.grow_s
        while time.monotonic() < until:
            held.append(os.urandom(1 << 20))
            time.sleep(0.1)
        time.sleep(3600)
    if options.out:
        (Path(options.out) / f"{os.environ['DISAGG_RANK']}.json").write_text(json.dumps(who()))
    if RANK == 0 or "DISAGG_INSTANCE" not in os.environ:
        ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
