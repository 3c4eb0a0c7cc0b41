"""A rank takes its role: learn the number, check, look the row up, set the environment, tell the gateway, become the worker.

Nothing is spawned and no MPI is touched: the process execs the worker, so there is one PID and signals go straight to it. There may be
thousands of ranks, so nothing is imported here that a plain rank does not need.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from disagg_launch.errors import BackendRefused, DisaggError, RankRefused
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime import gpus, manifest, wire
from disagg_launch.runtime.binding import Reader, Scope
from disagg_launch.runtime.launchers import LAUNCHERS, place_of
from disagg_launch.runtime.names import GATEWAY, LIFE, START
from disagg_launch.runtime.tasks import Task, neighbours, numbers, tasks_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional

    from disagg_launch.launch import Launch, Start, Text, Worker
    from disagg_launch.plan import Plan
    from disagg_launch.runtime.binding import Binding

REPORT_S = 10.0
RETRY_S = 0.2


class Role:
    """What one task is: its place in the plan, the worker it becomes, and where everything is."""

    def __init__(self, scope: Scope, start: Start, task: Task, launcher: str) -> None:
        self.scope, self.start, self.task, self.launcher = scope, start, task, launcher
        self.plan, self.run = scope.plan, scope.run
        self.worker: Worker = next(w for w in scope.launch.workers if w.instance == task.instance.name)
        self.numbers = numbers(self.plan, task, self.worker)
        self.name = f"{task.instance.name} rank {task.row.instance_rank}"


def main(run: str, launcher: str, step: str, digest: str, environ: Mapping[str, str]) -> None:
    """Become the worker of this task; comes back only by raising RankRefused or BackendRefused, each with one clear sentence."""
    token = _token(run) if environ.get(GATEWAY) else b""
    try:
        role = role_of(run, launcher, step, digest, environ)
        if LAUNCHERS[launcher].adopts:
            from disagg_launch.runtime import processes

            processes.die_with_parent()
        visible = _gpus(role, environ)
        _check_port(role)
        command, variables = command_of(role, environ, visible)
        program, *_ = [_program(name, variables) for name in (command[0], *role.worker.needs)]
    except DisaggError as refusal:
        _tell_refusal(environ, token, {"kind": "refusal", "step": step, "why": str(refusal), "code": refusal.exit_code})
        raise
    variables.update(_report(role, environ, token, visible))
    os.execve(program, command, variables)  # noqa: S606  (no shell is wanted here)


def role_of(run: str, launcher: str, step: str, digest: str, environ: Mapping[str, str]) -> Role:
    """The role of this task. RankRefused STALE_PLAN, NO_RANK or WRONG_WORLD_SIZE."""
    plan, launch = manifest.read(run)
    for name, has in (("plan.json", plan.digest), ("launch.json", launch.digest)):
        if has != digest:
            raise RankRefused(
                f"{run}/{name} has plan {has}, this step was rendered for {digest}: render the run again", RankRefused.STALE_PLAN
            )
    start = _start(launch, step)
    tasks = tasks_of(plan, start, launch.workers)
    number, count = place_of(launcher, environ)
    if count != len(tasks):
        raise RankRefused(
            f"step {step} has {len(tasks)} tasks in the plan, {launcher} started {count}: start it with exactly {len(tasks)}",
            RankRefused.WRONG_WORLD_SIZE,
        )
    if not 0 <= number < count:
        raise RankRefused(
            f"{launcher} gave this task number {number} of {count}, and numbers are 0 to {count - 1}: start the step with its own script",
            RankRefused.NO_RANK,
        )
    return Role(Scope(run, plan, launch, _binding(run, plan, launch, environ)), start, tasks[number], launcher)


def hosts_of_step(run: str, step: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The host of each task of a step, in task order."""
    plan, launch = manifest.read(run)
    bound = _binding(run, plan, launch, environ)
    return tuple(bound.hosts[task.row.node] for task in tasks_of(plan, _start(launch, step), launch.workers))


def command_of(role: Role, environ: Mapping[str, str], visible: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The worker's argv and whole environment: `environ` less what is unset, plus the worker's own, the GPUs and the task's role."""
    reader = Reader(role.task, role.numbers, visible)

    def bound(text: Text) -> str:
        return role.scope.text(manifest.parts(text), reader)

    gone = role.worker.unset
    prefixes = tuple(name[:-1] for name in gone if name.endswith("*"))
    out = {k: v for k, v in environ.items() if k not in gone and not (prefixes and k.startswith(prefixes))}
    if role.worker.gpus:
        out["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    out.setdefault("PYTHONUNBUFFERED", "1")  # what a worker says must be in its log when it is killed the next moment
    out.update({name: bound(text) for name, text in role.worker.environ.items()})
    out.update(identity(role))
    more = role.worker.followers if role.task.row.instance_rank else ()
    argv = [bound(word) for word in (*role.worker.argv, *more)]
    # a plain process has no world that could be split
    return (_in_world(role, argv) if role.worker.in_process and role.launcher != "local" else argv), out


def identity(role: Role) -> dict[str, str]:
    """The variables that tell a worker who it is."""
    row = role.task.row
    return {
        "DISAGG_RUN": role.run,
        "DISAGG_INSTANCE": row.instance,
        "DISAGG_ROLE": row.role,
        "DISAGG_RANK": str(row.rank),
        "DISAGG_INSTANCE_RANK": str(row.instance_rank),
        "DISAGG_TP_RANK": str(row.tp_rank),
        "DISAGG_PP_RANK": str(row.pp_rank),
        "DISAGG_NODE_RANK": str(role.numbers["node_rank"]),
        "DISAGG_LOCAL_RANK": str(role.numbers["local_rank"]),
        "DISAGG_DIGEST": role.plan.digest,
    }


def _in_world(role: Role, argv: list[str]) -> list[str]:
    """argv of the in-process form: the worker's interpreter, mpi4py's runner (so that one failing rank aborts all), our world module."""
    from disagg_launch.runtime import processes

    archive = processes.own_archive()
    code = [archive, "world"] if archive else ["-m", "disagg_launch.runtime.world"]
    size = len(tasks_of(role.plan, role.start, role.scope.launch.workers))
    colour = [i.name for i in role.plan.instances].index(role.task.instance.name)
    place = f"--size={size}", f"--colour={colour}", f"--key={role.task.row.instance_rank}", f"--count={role.task.instance.size}"
    return [argv[0], "-m", "mpi4py", *code, *place, role.worker.in_process, *argv[3:]]


def _start(launch: Launch, step: str) -> Start:
    for start in launch.starts:
        if start.step == step:
            return start
    names = ", ".join(s.step for s in launch.starts)
    raise RankRefused(f"there is no step {step!r} in launch.json (it has {names}): name one of them", RankRefused.NO_RANK)


def _binding(run: str, plan: Plan, launch: Launch, environ: Mapping[str, str]) -> Binding:
    """As the gateway wrote it; for a step typed by hand, the allocation it was typed in, or this machine."""
    if launch.backend == "slurm" and not environ.get(GATEWAY):
        from disagg_launch.runtime import allocation

        return bindings.bound(plan, allocation.hosts(environ))
    found = bindings.load(run)
    if found is None and launch.backend == "slurm":
        raise RankRefused(f"{run}/binding.json is not there, so no host is known: start the gateway, which writes it", RankRefused.NO_RANK)
    return found or bindings.on_this_machine(plan)


def _gpus(role: Role, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The devices this task may see. RankRefused GPU_MISSING."""
    if not role.worker.gpus:
        return ()
    node = role.task.row.node
    rows = role.task.rows if role.worker.visible == "rank" else neighbours(role.plan, role.task)
    in_step = [r.gpu for name in role.start.instances for r in role.plan.ranks_of(name) if r.node == node]
    counter = LAUNCHERS[role.launcher].gpu_count
    step_has = int(environ.get(counter, len(in_step))) if counter else None
    listed = gpus.given(environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        return gpus.visible([r.gpu for r in rows if r.node == node], in_step, listed, gpus.on_this_node(), step_has)
    except RankRefused as missing:
        raise RankRefused(f"{role.name} on {socket.gethostname()}: {missing}", missing.exit_code) from None


def _check_port(role: Role) -> None:
    """RankRefused PORT_TAKEN when somebody listens on the instance's port already; only the rank that will own it looks."""
    if role.task.row.instance_rank != 0:
        return
    bound = role.scope.binding
    host, port = bound.addresses[role.task.instance.nodes[0]], role.task.instance.port + bound.side_up
    taken = listener(host, port)
    if taken:
        raise RankRefused(
            f"{role.name} on {socket.gethostname()}: port {port} of {host} is taken ({taken}): end what listens there, or plan another",
            RankRefused.PORT_TAKEN,
        )


def listener(host: str, port: int) -> str:
    """Why `host`:`port` cannot be listened on; "" when it can. SO_REUSEADDR: connections that linger are no obstacle."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as problem:
        # an address that is not this machine's says nothing about the port; the gateway checks hosts by the rank's report
        return (problem.strerror or str(problem)) if problem.errno in (errno.EADDRINUSE, errno.EACCES) else ""
    return ""


def _program(name: str, environ: Mapping[str, str]) -> str:
    """The path of the worker's program, found as a shell would. BackendRefused if there is none."""
    folders = [""] if os.sep in name else environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    where = "it does not exist or is not executable" if os.sep in name else f"it is in no folder of PATH ({os.pathsep.join(folders)})"
    remedy = "install it, or give its full path (engine.program, or command)"
    raise BackendRefused(f"the worker's program {name!r} was not found on {socket.gethostname()}: {where}; {remedy}")


def _report(role: Role, environ: Mapping[str, str], token: bytes, visible: tuple[str, ...]) -> dict[str, str]:
    """Tell the gateway who took this role where; the variables that its answer adds. RankRefused if it cannot be told or says no."""
    host = socket.gethostname()
    report = {
        "kind": "role",
        "ranks": [r.rank for r in role.task.rows],
        "instance": role.task.instance.name,
        "host": host,
        "pid": os.getpid(),
        "gpus": visible,
        "digest": role.plan.digest,
        "launcher": role.launcher,
    }
    told = _tell(environ, token, report)
    if told is None:
        print(f"disagg-launch: {GATEWAY} is not set: {role.name} starts, and nobody watches it", file=sys.stderr)
        return {}
    connection, answer = told
    if "refused" in answer:
        raise RankRefused(f"{role.name} on {host}: {answer['refused']}", answer.get("code", RankRefused.GATEWAY_LOST))
    if answer.get("output"):
        connection.settimeout(None)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(connection.fileno(), stream.fileno())
    variables = {LIFE: answer["life"], START: str(answer["start"])}
    if answer.get("companion") and role.numbers["local_rank"] == 0:
        from disagg_launch.runtime import lease

        lease.fork_companion({**environ, **identity(role), **variables}, answer["fence_s"], answer["grace_s"])
    return variables


def _tell(environ: Mapping[str, str], token: bytes, message: dict[str, Any]) -> Optional[tuple[socket.socket, dict[str, Any]]]:
    """The connection and the gateway's answer; None when there is no gateway. RankRefused GATEWAY_LOST when it cannot be reached."""
    address = environ.get(GATEWAY)
    if not address:
        return None
    deadline = time.monotonic() + REPORT_S
    while True:
        try:
            connection, _, answer = wire.connect(address, token, message, REPORT_S)
            return connection, answer
        except (OSError, ValueError) as problem:
            # refused on the gateway's own machine means gone; elsewhere a full queue or a slow network deserves patience
            if time.monotonic() > deadline or isinstance(problem, ConnectionRefusedError):
                raise RankRefused(
                    f"the gateway at {address} cannot be reached ({problem}): see logs/gateway.log",
                    RankRefused.GATEWAY_LOST,
                ) from None
        time.sleep(RETRY_S)


def _tell_refusal(environ: Mapping[str, str], token: bytes, message: dict[str, Any]) -> None:
    try:
        _tell(environ, token, message)
    except DisaggError:
        return  # what the rank refused for matters more than that it could not be told


def _token(run: str) -> bytes:
    try:
        return wire.read_token(run)
    except OSError as problem:
        raise RankRefused(
            f"{wire.token_path(run)} cannot be read ({problem.strerror}): this node must see the run folder", RankRefused.GATEWAY_LOST
        ) from None
