"""launch.json: what the planning half tells the runtime half beside the plan. Standard library only (it travels in runtime.pyz).

Host names, and with them every URL, are known only when nodes have been given. A text that depends on them is kept as a
tuple of parts: plain strings and `Ref`s. Nothing a user typed is ever parsed for place holders at run time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Union

VERSION = 1

WHATS = (
    "host", "port", "url", "name", "role", "size", "rank", "instance_rank", "tp_rank", "pp_rank", "node_rank", "node_count", "local_rank",
    "gpus", "address", "run",
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A value known at bind time: `what` (one of WHATS) of instance `of`; `of` "" is the reader's own instance, "router" the router,
    "@3" node 3 (which has a host only).

    host: name other nodes reach the instance's first node by. url: "host:port". gpus: comma list of this task's visible ids.
    address: name other nodes reach the reading task's own node by.
    rank, instance_rank, tp_rank, pp_rank, node_rank, local_rank: of the task that reads it. run: absolute run folder.
    "side_port" and "front_port", which no user writes, have a port number of the plan in `of`, a worker's or the front door's, and stand
    for that number as it is bound (see Ports).
    """

    what: str
    of: str = ""


Text = Union[str, "tuple[Union[str, Ref], ...]"]
RANK, NODE, INSTANCE = "rank", "node", "instance"


@dataclass(frozen=True)
class Worker:
    """What runs in an instance's tasks. `tasks`: one process per "rank", per "node" of the instance, or one per "instance".

    `visible`: which GPUs a task sees: its own ("rank"), or all of the instance's on that node ("node").
    `environ` is set, `unset` (names, or prefixes ending in "*") removed first. `health` is the path probed on the instance's port.
    `in_process` "module:function" is called, where a launcher makes an MPI world, instead of exec: as function(arguments, comm) with the
    instance's communicator; `argv` is then (interpreter, "-m", module, *arguments).
    `stacks`: name of the signal upon which the engine writes the stacks of its threads to its log, "" for none.
    `followers`: further words for every task but the instance's first.
    `world`: which ranks the engine wants to find in its MPI world: the "instance"'s own, all of the "plan", or "" (it does not look).
    `needs`: programs that the command starts in its turn, looked for on the node too.
    `apart`: why the instance's nodes have to be machines of their own; "" if they need not.
    `answers_at`: where it makes a token for whoever asks, past any front door: "/v1/completions", or a path to GET; "" if it must not be
    asked.
    """

    instance: str
    argv: tuple[Text, ...]
    environ: Mapping[str, Text] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    tasks: str = RANK
    visible: str = RANK
    gpus: bool = True
    health: str = "/health"
    in_process: str = ""
    followers: tuple[Text, ...] = ()
    world: str = ""
    apart: str = ""
    needs: tuple[str, ...] = ()
    stacks: str = ""
    answers_at: str = ""


@dataclass(frozen=True)
class Start:
    """How the gateway starts one step: `argv` with the run folder as working directory.

    `stop` is the command that ends the step in order, where a signal to it does not. `lost` is one that prints the hosts on which no
    step can be started now, a line each; `release` gives hosts back, which are further words, and prints those that it did.
    """

    step: str
    first_rank: int
    size: int
    instances: tuple[str, ...]
    argv: tuple[str, ...]
    stop: tuple[str, ...] = ()
    launcher: str = "local"
    lost: tuple[str, ...] = ()
    release: tuple[str, ...] = ()


@dataclass(frozen=True)
class Router:
    """The front door: started once on node `node`, when every instance is healthy. `stop` as in Start.

    `proves` says how it is shown that tokens go through it: "pairs" (it tries a named pair, over its admin side), "requests" (through its
    public side, to whom it likes), or "" (nothing is known of it).
    `waits`: it is started with the instances, with "--closed" behind its words, and answers nobody but the gateway until that opens it.
    `early`: it is started before the instances, which register with it and are not healthy before they have; it then says itself,
    by its health, when there are enough of them.
    `drain_s`: how long it goes on with what it has in hand when it is told to end; only then the grace begins.
    `argv` empty: the front door is another run's, whose folder `run` is (against this run's, if it is relative), and this run ends with it.
    `metrics`: where its figures for Prometheus are, "/path" or ":port/path" on another port of its host; "" if that is not known.
    `page`: where its page for people is, in the same form; "" without.
    `admin_port`: a port of its own for that which the gateway tells and asks it, in plain HTTP, 0 for `port`; `admin_rises`: with `port`.
    `tls_cert`, `tls_key`: paths of what clients are shown at `port`, and of its key; "" where they come in plain HTTP.
    """

    argv: tuple[Text, ...]
    environ: Mapping[str, Text] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    health: str = "/health"
    node: int = 0
    stop: tuple[str, ...] = ()
    early: bool = False
    drain_s: float = 0.0
    metrics: Text = ""
    admin_port: int = 0
    admin_rises: bool = False
    proves: str = ""
    waits: bool = False
    run: str = ""
    page: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def asked_at(self, up: int) -> int:
        """The port at which the gateway asks it, where ports that the topology file does not give are `up` higher than planned."""
        return self.admin_port + up * self.admin_rises if self.admin_port else self.port + up


@dataclass(frozen=True)
class Readiness:
    """Seconds. `limit_s`: from start to ready, longer as long as a late instance gets on; `stall_s`: so long may one not get on.

    `prove`: over which pairs a token has to go before ready: "pairs" (all), "cover" (every instance once), "none", or "auto" (all if there
    are not many); `prove_s`: patience with each.
    `interval_s`: between two probes of one instance; `probe_s`: one probe's patience.
    `limit_why`: the sum that limit_s came from, for people.
    """

    limit_s: float = 600.0
    interval_s: float = 0.5
    probe_s: float = 2.0
    limit_why: str = ""
    stall_s: float = 300.0
    prove: str = "auto"
    prove_s: float = 120.0


@dataclass(frozen=True)
class Policy:
    """What to do when a worker dies after ready: "stop" or "restart" (its own step only), with `max_restarts` per instance.

    A worker on another node that has not heard of its gateway for `fence_s` seconds ends itself, so that a lost one can never
    live beside its replacement. One that lives but has answered nothing for `hang_s` counts as dead; 0: never.
    An instance for which there is no node waits for one while `least` others of its role are left (1 of a role that is not named).
    """

    on_failure: str = "stop"
    max_restarts: int = 3
    backoff_s: float = 1.0
    grace_s: float = 10.0
    fence_s: float = 30.0
    hang_s: float = 300.0
    least: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """How many instances a role may have, and how long its requests are meant to wait on average: for a worker, or for the first token.

    Seconds; a wait of 0 is not looked at. After a change of the role nothing is changed for `cool_down_s`; it grows by `step` at most.
    """

    minimum: int
    maximum: int
    queue_s: float = 0.0
    ttft_s: float = 0.0
    cool_down_s: float = 60.0
    step: int = 1


@dataclass(frozen=True)
class Autoscale:
    """`targets` by role, judged every `interval_s` by what was seen in the last `window_s`; `argv` and wishes carry a wish out."""

    argv: tuple[str, ...]
    targets: Mapping[str, Target]
    interval_s: float = 5.0
    window_s: float = 30.0


@dataclass(frozen=True)
class Ports:
    """Port numbers that the topology file does not give. Where another run has them, the gateway raises all of them together.

    `holds`: one command for each part of the job, which runs `runtime.pyz ports` on every host; none: all ports are as planned.
    `workers`, `router`: whose ports are raised. `first`, `last`: the lowest and highest of these that may be used, as planned.
    """

    holds: tuple[tuple[str, ...], ...] = ()
    workers: bool = False
    router: bool = False
    first: int = 0
    last: int = 0


@dataclass(frozen=True)
class Launch:
    """The whole of launch.json. `files`: path in the run folder -> late-bound text, written by the gateway once hosts are known."""

    digest: str
    backend: str
    starts: tuple[Start, ...]
    workers: tuple[Worker, ...]
    router: Router
    files: Mapping[str, Text] = field(default_factory=dict)
    readiness: Readiness = field(default_factory=Readiness)
    policy: Policy = field(default_factory=Policy)
    autoscale: Optional[Autoscale] = None
    ports: Ports = field(default_factory=Ports)
    version: int = VERSION


def bind(text: Text, value: Callable[[Ref], str]) -> str:
    """The text with every Ref replaced by value(ref)."""
    if isinstance(text, str):
        return text
    return "".join(part if isinstance(part, str) else value(part) for part in text)


def to_json(launch: Launch) -> str:
    """launch.json, indented, ending with a newline. A late-bound text is a list; a Ref in it is {"ref": what, "of": name}."""
    return json.dumps(_plain(launch), indent=1) + "\n"


def from_json(text: str) -> Launch:
    """The launch that `to_json` wrote. ValueError on another version."""
    raw = json.loads(text)
    if raw.get("version") != VERSION:
        raise ValueError(f"launch version {raw.get('version')!r} found, {VERSION} needed: render again")
    return Launch(
        digest=raw["digest"],
        backend=raw["backend"],
        starts=tuple(Start(**{**s, **{k: tuple(s[k]) for k in ("instances", "argv", "stop", "lost", "release")}}) for s in raw["starts"]),
        workers=tuple(
            Worker(**{**_texts(w), "unset": tuple(w["unset"]), "needs": tuple(w["needs"]), "followers": _words(w["followers"])})
            for w in raw["workers"]
        ),
        router=Router(**{**_texts(raw["router"]), "stop": tuple(raw["router"]["stop"]), "metrics": _text(raw["router"]["metrics"])}),
        files={k: _text(v) for k, v in raw["files"].items()},
        readiness=Readiness(**raw["readiness"]),
        policy=Policy(**raw["policy"]),
        autoscale=_autoscale(raw["autoscale"]),
        ports=Ports(**{**raw["ports"], "holds": tuple(tuple(one) for one in raw["ports"]["holds"])}),
        version=raw["version"],
    )


def _autoscale(raw: Any) -> Optional[Autoscale]:
    if raw is None:
        return None
    targets = {role: Target(**one) for role, one in raw["targets"].items()}
    return Autoscale(**{**raw, "argv": tuple(raw["argv"]), "targets": targets})


def _plain(value: Any) -> Any:
    if isinstance(value, Ref):
        return {"ref": value.what, "of": value.of}
    if hasattr(value, "__dataclass_fields__"):
        return {k: _plain(v) for k, v in vars(value).items()}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _texts(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "argv": _words(raw["argv"]), "environ": {k: _text(v) for k, v in raw["environ"].items()}}


def _words(raw: Any) -> tuple[Text, ...]:
    return tuple(_text(one) for one in raw)


def _text(raw: Any) -> Text:
    if isinstance(raw, str):
        return raw
    return tuple(p if isinstance(p, str) else Ref(p["ref"], p["of"]) for p in raw)
