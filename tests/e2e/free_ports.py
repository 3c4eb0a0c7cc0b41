"""Ports for a deployment on this machine."""

import contextlib
import random
import socket


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on, below those that the kernel gives to clients."""
    while True:
        base = random.randrange(10_000, 32_000 - count)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(base, base + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
