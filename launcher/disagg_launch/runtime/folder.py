"""The gateway's side of the run folder: the lock, the secret, late-bound files, and the warden who cleans up if the gateway is killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from typing import IO, Any, Dict, Tuple

from disagg_launch import launch as launches
from disagg_launch import plan as plans
from disagg_launch.errors import BackendRefused, BadInput
from disagg_launch.launch import Launch
from disagg_launch.plan import Plan
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime import processes, wire
from disagg_launch.runtime.binding import Binding, Reader, Scope
from disagg_launch.runtime.names import LIFE

TAKEN = (errno.EAGAIN, errno.EACCES)
"""What a lock is refused with when somebody has it; everything else says that there are no locks here."""


def claim(run: str) -> IO[str]:
    """The open lock file of the run; one gateway at a time. Makes state/ (0700) and logs/. BackendRefused if another has it."""
    if not os.path.exists(os.path.join(run, "launch.json")):
        raise BadInput(f"{run} is no run folder (it has no launch.json): render one with `disagg-launch render`")
    os.makedirs(os.path.join(run, "logs"), exist_ok=True)
    os.makedirs(os.path.join(run, "state"), mode=0o700, exist_ok=True)
    os.chmod(os.path.join(run, "state"), 0o700)
    lock = open(os.path.join(run, "state", "lock"), "a+", encoding="utf-8")  # noqa: SIM115  (held as long as the gateway lives)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        lock.close()
        if problem.errno in TAKEN:
            raise BackendRefused(f"{run} is up already: stop it with `disagg-launch down {run}`") from None
        why = f"{lock.name} cannot be locked ({problem.strerror}), so nothing would keep a second gateway away"
        raise BackendRefused(f"{why}: have its file system mounted with locks (Lustre: -o flock), or put the run elsewhere") from None
    return lock


def read(run: str) -> Tuple[Plan, Launch]:
    """plan.json and launch.json. BadInput if they cannot be used."""
    try:
        with open(os.path.join(run, "plan.json"), encoding="utf-8") as file:
            plan = plans.from_json(file.read())
        with open(os.path.join(run, "launch.json"), encoding="utf-8") as file:
            return plan, launches.from_json(file.read())
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise BadInput(f"{run} holds no usable plan ({wrong}): render the run again") from None


def write_private(path: str, text: str, mode: int = 0o600) -> None:
    """Put a file in place all at once, readable by its owner only."""
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(fresh, path)


def write_state(run: str, token: str, address: str) -> None:
    """state/token and state/gateway.json: how commands on this or another node find this gateway."""
    write_private(wire.token_path(run), token + "\n")
    write_private(
        os.path.join(run, "state", "gateway.json"),
        json.dumps({"address": address, "pid": os.getpid(), "host": socket.gethostname()}) + "\n",
    )


def write_bound(run: str, plan: Plan, launch: Launch, binding: Binding) -> None:
    """binding.json and every late-bound file, now that hosts are known."""
    # ranks that start meanwhile read it
    write_private(os.path.join(run, "binding.json"), bindings.to_json(binding), 0o644)
    scope = Scope(run, plan, launch, binding)
    for path, text in launch.files.items():
        whole = os.path.join(run, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        bound = scope.text(text, Reader())
        # engines' and routers' files may hold keys; whoever reads them runs as the same user
        write_private(whole, bound, 0o700 if path.endswith(".sh") else 0o600)


def post_warden(life: str, grace_s: float) -> subprocess.Popen[bytes]:
    """A process that waits for the end of the gateway, however it comes, and then ends whatever carries the mark of its life."""
    argv = [*processes.own_command(), "warden", f"--life={life}", f"--grace-s={grace_s}"]
    environ = {k: v for k, v in os.environ.items() if k != LIFE}
    quiet = subprocess.DEVNULL
    # the pipe to its standard input closes when the gateway ends; its own session keeps Ctrl-C away
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True, env=environ)


def warden(life: str, grace_s: float) -> None:
    """What that process does."""
    while sys.stdin.buffer.read(1):
        pass
    processes.end(lambda: processes.marked([(LIFE, life)]), grace_s)


def call(run: str, message: Dict[str, Any], timeout_s: float = 10.0) -> Dict[str, Any]:
    """The running gateway's answer to a control message. BackendRefused if there is no gateway to answer."""
    try:
        with open(os.path.join(run, "state", "gateway.json"), encoding="utf-8") as file:
            address = json.load(file)["address"]
        answer = wire.ask(address, wire.read_token(run), message, timeout_s)
    except FileNotFoundError:
        raise BackendRefused(f"{run} is not up: no gateway has begun there yet") from None
    except (OSError, ValueError, KeyError) as problem:
        raise BackendRefused(f"{run} is not up: no gateway answers ({problem})") from None
    if answer == wire.HUNG_UP:
        raise BackendRefused(f"{run} is not up: {address}, where its gateway was, belongs to another run now")
    return answer
