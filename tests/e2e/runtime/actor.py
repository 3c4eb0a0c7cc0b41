"""A worker that does what its arguments say, in order. Others are waited for by files, not by sleeping.

say:TEXT (lines with \\n), shout:N:TEXT (N times), touch:FILE and await:FILE (in the run folder), exit:CODE, kill:SIGNAL (itself),
eat:MEGABYTES, limit:MEGABYTES (its address space), cgroup:FOLDER (moves there), serve (until somebody asks for /leave). After the last it
sleeps. A number in front (2=exit:1) makes it that rank's alone.
"""

import os
import resource
import signal
import socket
import sys
import time

run = os.environ["DISAGG_RUN"]
kept = []


def serve(port):
    server = socket.create_server(("127.0.0.1", port))
    answer = b"HTTP/1.1 200 so\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                asked = connection.recv(65536)
                connection.sendall(answer)
                if asked.startswith(b"GET /leave "):
                    return
            except OSError:
                continue


def say(text, port):
    print(text.replace("\\n", "\n"), flush=True)


def shout(what, port):
    count, _, text = what.partition(":")
    print("\n".join(f"{text} {n}" for n in range(int(count))), flush=True)


def touch(name, port):
    open(f"{run}/{name}", "w").close()


def wait(name, port):
    while not os.path.exists(f"{run}/{name}"):
        time.sleep(0.01)


def limit(megabytes, port):
    resource.setrlimit(resource.RLIMIT_AS, (int(megabytes) << 20, int(megabytes) << 20))


def cgroup(folder, port):
    with open(f"{folder}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))


ACTS = {
    "say": say, "shout": shout, "touch": touch, "await": wait, "limit": limit, "cgroup": cgroup,
    "exit": lambda code, port: sys.exit(int(code)),
    "kill": lambda name, port: os.kill(os.getpid(), getattr(signal, name)),
    "eat": lambda megabytes, port: kept.append(bytearray(b"x" * (int(megabytes) << 20))),
    "serve": lambda _, port: serve(port),
}  # fmt: skip

print("i am", os.environ.get("DISAGG_INSTANCE"), "pid", os.getpid(), flush=True)
port = int(sys.argv[1])
for step in sys.argv[2:]:
    rank, _, more = step.partition("=")
    if rank.isdigit():
        if os.environ["DISAGG_INSTANCE_RANK"] != rank:
            continue
        step = more
    what, _, rest = step.partition(":")
    ACTS[what](rest, port)
time.sleep(600)
