"""A worker in a few lines: answers every request on its port. Flags (`--name value`) make it slow, sick, deaf or mortal.

--load-s S: sleep first. --load HOW: load by chatter, silence, spin (for ever) or growth. --die-s S: then end with code 3. --status N:
answer that. --deaf 1: ignore SIGTERM. --fork 1: leave a grandchild in a session of its own. --lease 1: hold a lease, and end when it is
lost. Only what it needs is imported: tests start hundreds.
"""

import os
import signal
import socket
import sys
import time

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))


def hold_lease():
    sys.path.insert(0, os.environ["DISAGG_RUN"] + "/runtime.pyz")
    from disagg_launch.runtime import lease

    def lost(reason):
        # not printed: whoever read our output was the gateway
        with open(os.environ["DISAGG_RUN"] + "/lost", "w") as file:
            file.write(reason)
        os._exit(0)

    lease.hold(lost)


def load(how):
    """Load for ever, in a way that the gateway has to judge."""
    held = []
    for step in range(10**9):
        time.sleep(0.05)
        if how == "chatter":
            print("still waiting for the others,", step, "s", flush=True)
        elif how == "silence":
            time.sleep(600)
        elif how == "spin":
            until = time.monotonic() + 0.2
            while time.monotonic() < until:
                pass
        elif how == "growth":
            held.append(bytearray(os.urandom(1 << 20)) * 5)
            if len(held) == 40:
                return
            time.sleep(0.1)


def serve(port, status):
    server = socket.create_server(("127.0.0.1", port))
    answer = f"HTTP/1.1 {status} so\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(answer)
            except OSError:
                continue


if "--lease" in flags:
    hold_lease()
print("i am", os.environ.get("DISAGG_INSTANCE", "router"), "pid", os.getpid(), flush=True)
if "--deaf" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--fork" in flags and os.fork() == 0:
    os.setsid()
    time.sleep(600)
if "--load" in flags:
    load(flags["--load"])
time.sleep(float(flags.get("--load-s", 0)))
if "--die-s" in flags:
    time.sleep(float(flags["--die-s"]))
    print("ValueError: no such model", flush=True)
    sys.exit(3)
if os.environ.get("DISAGG_INSTANCE_RANK", "0") != "0":
    time.sleep(600)  # only the first rank of an instance owns its port
serve(int(flags["--port"]), flags.get("--status", "200"))
