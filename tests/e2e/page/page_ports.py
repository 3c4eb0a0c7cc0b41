"""Ports for routers, and waiting for one to listen."""

from __future__ import annotations

import os
import socket
import time
import urllib.request


def free_ports(count: int) -> int:
    """The first of `count` ports in a row, below the ephemeral range, that nobody listens on."""
    start = 12000 + os.getpid() * 16 % 7000
    for base in (*range(start, 19000, 16), *range(12000, start, 16)):
        try:
            for port in range(base, base + count):
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise AssertionError("no free ports")


def until_listening(port: int) -> str:
    """The address of a router, once it answers."""
    url = f"http://localhost:{port}"
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/version", timeout=10):
                return url
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")
