"""A rank takes its role: learn the number, check, look the row up, set the environment, tell the gateway, become the worker.

Nothing is spawned and no MPI is touched: the process execs the worker, so there is one PID and signals go straight to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from disagg_launch import launch as launches
from disagg_launch import plan as plans
from disagg_launch.errors import BackendRefused, DisaggError, RankRefused
from disagg_launch.launch import Launch, Start, Worker
from disagg_launch.plan import Plan
from disagg_launch.runtime import allocation, gpus, processes, wire
from disagg_launch.runtime import binding as bindings
from disagg_launch.runtime.binding import Binding, Reader
from disagg_launch.runtime.launchers import LAUNCHERS, place_of
from disagg_launch.runtime.tasks import Task, neighbours, numbers, tasks_of

GATEWAY = "DISAGG_GATEWAY"
REPORT_S = 10.0
RETRY_S = 0.2


@dataclass(frozen=True)
class Role:
    """What one task is: its place in the plan, the worker it becomes, and where everything is."""

    plan: Plan
    launch: Launch
    start: Start
    binding: Binding
    task: Task
    worker: Worker
    run: str
    launcher: str


def main(run: str, launcher: str, step: str, digest: str, environ: Mapping[str, str]) -> None:
    """Become the worker of this task; comes back only by raising RankRefused or BackendRefused, each with one clear sentence."""
    token = _token(run) if environ.get(GATEWAY) else b""
    try:
        role = role_of(run, launcher, step, digest, environ)
        if LAUNCHERS[launcher].adopts:
            processes.die_with_parent()
        visible = _gpus(role, environ)
        _check_port(role)
        command, variables = command_of(role, environ, visible)
        program = _program(command[0], variables)
    except DisaggError as refusal:
        with contextlib.suppress(DisaggError):  # what it refused for matters more than that it could not be told
            _tell(environ, token, {"kind": "refusal", "step": step, "why": str(refusal), "code": refusal.exit_code})
        raise
    variables.update(_report(role, environ, token, visible))
    os.execve(program, command, variables)  # noqa: S606  (no shell is wanted here)


def role_of(run: str, launcher: str, step: str, digest: str, environ: Mapping[str, str]) -> Role:
    """The role of this task. RankRefused STALE_PLAN, NO_RANK or WRONG_WORLD_SIZE."""
    plan, launch = read(run)
    found = {"plan.json": plan.digest, "launch.json": launch.digest}
    for name, has in found.items():
        if has != digest:
            raise _refuse(
                RankRefused.STALE_PLAN,
                f"{os.path.join(run, name)} has plan {has}, this step was rendered for {digest}: render the run again",
            )
    start = next((s for s in launch.starts if s.step == step), None)
    if start is None:
        names = ", ".join(s.step for s in launch.starts)
        raise _refuse(RankRefused.NO_RANK, f"there is no step {step!r} in launch.json (it has {names}): name one of them")
    tasks = tasks_of(plan, start, launch.workers)
    number, count = place_of(launcher, environ)
    if count != len(tasks):
        raise _refuse(
            RankRefused.WRONG_WORLD_SIZE,
            f"step {step} has {len(tasks)} tasks in the plan, {launcher} started {count}: start it with exactly {len(tasks)}",
        )
    if not 0 <= number < count:
        raise _refuse(
            RankRefused.NO_RANK, f"{launcher} gave this task number {number} of {count}: numbers begin at 0 and end below the count"
        )
    task = tasks[number]
    worker = next(w for w in launch.workers if w.instance == task.instance.name)
    return Role(plan, launch, start, _binding(run, plan, launch, environ), task, worker, run, launcher)


def hosts_of_step(run: str, step: str, environ: Mapping[str, str]) -> Tuple[str, ...]:
    """The host of each task of a step, in task order."""
    plan, launch = read(run)
    start = next((s for s in launch.starts if s.step == step), None)
    if start is None:
        raise _refuse(
            RankRefused.NO_RANK, f"there is no step {step!r} in launch.json: name one of {', '.join(s.step for s in launch.starts)}"
        )
    bound = _binding(run, plan, launch, environ)
    return tuple(bound.hosts[task.row.node] for task in tasks_of(plan, start, launch.workers))


def read(run: str) -> Tuple[Plan, Launch]:
    """plan.json and launch.json of the run folder. RankRefused STALE_PLAN if they are missing or were edited."""
    try:
        with open(os.path.join(run, "plan.json"), encoding="utf-8") as file:
            plan = plans.from_json(file.read())
        with open(os.path.join(run, "launch.json"), encoding="utf-8") as file:
            launch = launches.from_json(file.read())
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise _refuse(RankRefused.STALE_PLAN, f"{run} holds no usable plan ({wrong}): render the run again") from None
    return plan, launch


def command_of(role: Role, environ: Mapping[str, str], visible: Tuple[str, ...]) -> Tuple[List[str], Dict[str, str]]:
    """The worker's argv and whole environment: `environ` less what is unset, plus the worker's own, the GPUs and the task's role."""
    reader = Reader(role.task, numbers(role.plan, role.task, role.worker), visible)

    def bound(text: launches.Text) -> str:
        return launches.bind(text, lambda ref: bindings.value_of(ref, role.plan, role.launch, role.binding, role.run, reader))

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
    return (_in_world(role, argv) if in_world(role) else argv), out


def identity(role: Role) -> Dict[str, str]:
    """The variables that tell a worker who it is."""
    row, own = role.task.row, numbers(role.plan, role.task, role.worker)
    return {
        "DISAGG_RUN": role.run,
        "DISAGG_INSTANCE": row.instance,
        "DISAGG_ROLE": row.role,
        "DISAGG_RANK": str(row.rank),
        "DISAGG_INSTANCE_RANK": str(row.instance_rank),
        "DISAGG_TP_RANK": str(row.tp_rank),
        "DISAGG_PP_RANK": str(row.pp_rank),
        "DISAGG_NODE_RANK": str(own["node_rank"]),
        "DISAGG_LOCAL_RANK": str(own["local_rank"]),
        "DISAGG_DIGEST": role.plan.digest,
    }


def in_world(role: Role) -> bool:
    """Whether the worker is called with a communicator instead of being exec'ed; a plain process has no world to be split."""
    return bool(role.worker.in_process) and role.launcher != "local"


def _in_world(role: Role, argv: List[str]) -> List[str]:
    """argv of the in-process form: the worker's interpreter, mpi4py's runner (so that one failing rank aborts all), our world module."""
    archive = processes.own_archive()
    code = [archive, "world"] if archive else ["-m", "disagg_launch.runtime.world"]
    size = len(tasks_of(role.plan, role.start, role.launch.workers))
    colour = [i.name for i in role.plan.instances].index(role.task.instance.name)
    place = f"--size={size}", f"--colour={colour}", f"--key={role.task.row.instance_rank}", f"--count={role.task.instance.size}"
    arguments = argv[3:] if argv[1:2] == ["-m"] else argv[2:]
    return [argv[0], "-m", "mpi4py", *code, *place, role.worker.in_process, *arguments]


def _binding(run: str, plan: Plan, launch: Launch, environ: Mapping[str, str]) -> Binding:
    """As the gateway wrote it; for a step typed by hand, the allocation it was typed in, or this machine."""
    if launch.backend == "slurm" and not environ.get(GATEWAY):
        return bindings.bound(plan, allocation.hosts(environ))
    found = bindings.load(run)
    if found is None and launch.backend == "slurm":
        raise _refuse(RankRefused.NO_RANK, f"{run}/binding.json is not there, so no host is known: start the gateway, which writes it")
    return found or bindings.on_this_machine(plan)


def _gpus(role: Role, environ: Mapping[str, str]) -> Tuple[str, ...]:
    if not role.worker.gpus:
        return ()
    node = role.task.row.node
    rows = role.task.rows if role.worker.visible == launches.RANK else neighbours(role.plan, role.task)
    in_step = [r.gpu for name in role.start.instances for r in role.plan.ranks_of(name) if r.node == node]
    listed = gpus.given(environ.get("CUDA_VISIBLE_DEVICES"))
    wanted = [r.gpu for r in rows if r.node == node]
    try:
        return gpus.visible(wanted, in_step, listed, gpus.on_this_node(), LAUNCHERS[role.launcher].per_step)
    except RankRefused as missing:
        raise _refuse(missing.exit_code, f"{_who(role)} on {socket.gethostname()}: {missing}") from None


def _check_port(role: Role) -> None:
    """RankRefused PORT_TAKEN when somebody listens on the instance's port already; only the rank that will own it looks."""
    if role.task.row.instance_rank != 0:
        return
    host, port = role.binding.addresses[role.task.instance.nodes[0]], role.task.instance.port
    taken = listener(host, port)
    if taken:
        raise _refuse(
            RankRefused.PORT_TAKEN,
            f"{_who(role)} on {socket.gethostname()}: port {port} of {host} is taken ({taken}): end that, or plan another port",
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
    found = shutil.which(name, path=environ.get("PATH"))
    if not found:
        where = "it does not exist or is not executable" if os.sep in name else f"it is in no folder of PATH ({environ.get('PATH', '')})"
        raise BackendRefused(
            f"the worker's program {name!r} was not found on {socket.gethostname()}: {where}; install it or give its full path"
        )
    return found


def _report(role: Role, environ: Mapping[str, str], token: bytes, visible: Tuple[str, ...]) -> Dict[str, str]:
    """Tell the gateway who took this role where; the variables that its answer adds. RankRefused if it cannot be told or says no."""
    told = _tell(
        environ,
        token,
        {
            "kind": "role",
            "ranks": [r.rank for r in role.task.rows],
            "instance": role.task.instance.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "gpus": list(visible),
            "digest": role.plan.digest,
            "launcher": role.launcher,
        },
    )
    if told is None:
        print(f"disagg-launch: {GATEWAY} is not set: {_who(role)} starts, and nobody watches it", file=sys.stderr)
        return {}
    connection, answer = told
    if "refused" in answer:
        raise _refuse(answer.get("code", RankRefused.GATEWAY_LOST), f"{_who(role)} on {socket.gethostname()}: {answer['refused']}")
    if answer.get("output"):
        connection.settimeout(None)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(connection.fileno(), stream.fileno())
    variables = {processes.LIFE: answer["life"]}
    if answer.get("companion") and numbers(role.plan, role.task, role.worker)["local_rank"] == 0:
        from disagg_launch.runtime import lease

        lease.fork_companion({**environ, **identity(role), **variables}, answer["fence_s"], answer["grace_s"])
    return variables


def _tell(environ: Mapping[str, str], token: bytes, message: Dict[str, Any]) -> Optional[Tuple[socket.socket, Dict[str, Any]]]:
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
                raise _refuse(
                    RankRefused.GATEWAY_LOST,
                    f"the gateway at {address} cannot be reached ({problem}): see logs/gateway.log in the run folder",
                ) from None
        time.sleep(RETRY_S)


def _token(run: str) -> bytes:
    try:
        return wire.read_token(run)
    except OSError as problem:
        raise _refuse(
            RankRefused.GATEWAY_LOST, f"{wire.token_path(run)} cannot be read ({problem.strerror}): this node must see the run folder"
        ) from None


def _who(role: Role) -> str:
    return f"{role.task.instance.name} rank {role.task.row.instance_rank}"


def _refuse(code: int, sentence: str) -> RankRefused:
    return RankRefused(sentence, code)
