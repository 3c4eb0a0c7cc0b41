"""Our own maps in a topology file, except Slurm's: engine, cluster, mpi, readiness, restart, autoscale, router, lint."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import Field

from disagg_launch.spec.fields import Closed, Command, Count, Environ, Line, Many, Name, Positive, Seconds, Short, Size

EngineName = Literal["reference", "trtllm", "vllm", "sglang", "command"]
RouterName = Literal["builtin", "trtllm", "sglang", "vllm", "command", "none"]


class Quantize(Closed):
    """A quantised checkpoint to be made before the first start, by the Model Optimizer's hf_ptq.py."""

    role: Literal["context", "generation"] = "generation"
    """Whose checkpoint: it is written to that section's `model`."""
    checkpoint: Line
    """The checkpoint it is made from."""
    qformat: Name = "fp8"
    kv_cache_qformat: Name = "none"
    """The KV cache's precision; it has to be that of the other role."""
    sparsity_fmt: Name = "dense"
    calib_size: Size = 512
    batch_size: Size = 8


class Engine(Closed):
    """What runs in a worker."""

    name: EngineName = "trtllm"
    """Which engine: the embedded one, TensorRT-LLM, vLLM, SGLang, or any command."""
    python: Optional[Line] = None
    """The interpreter on the nodes; its engine is used."""
    program: Optional[Line] = None
    """The engine's program on the nodes (trtllm-serve, vllm, ...) if it is not found by name."""
    version: Optional[Short] = None
    """The engine's version on the nodes; with it, what that version cannot do is found before anything starts."""
    launch: Optional[Literal["serve", "llmapi-launch", "mpi-worker"]] = None
    """TensorRT-LLM's form of start; left out: llmapi-launch with a map `slurm` or an instance on several nodes, else serve."""
    args: Command = ()
    """Further arguments, put at the end of every worker's command."""
    command: Optional[Command] = None
    """With `name: command`: the worker's command, a template with {host} {port} {rank} {model} ..."""
    health: Optional[Line] = None
    """The path that answers 200 when a worker is ready."""
    tasks: Optional[Literal["rank", "node", "instance"]] = None
    """With `name: command`: one process per rank, per node of an instance, or per instance."""
    rendezvous: Literal["builtin", "ray"] = "builtin"
    """How the nodes of one vLLM instance meet: by themselves, or through `ray symmetric-run`."""
    quantize: Optional[Quantize] = None
    """Mixed precision with TensorRT-LLM: how the quantised checkpoint is made."""
    metadata_server: bool = False
    """Start workers with `--metadata_server_config_file` (needs the map `metadata_server`)."""


class Exclude(Closed):
    """Nodes and GPUs that get nothing. Nodes are numbers from 0."""

    nodes: Many[Count] = ()
    """Node numbers."""
    gpus: dict[int, Many[Count]] = Field(default_factory=dict)
    """Node number -> GPU numbers."""


class Group(Closed):
    """Nodes of one kind. Groups follow each other: the first group has the first node numbers."""

    name: Name
    """The group's name, in messages and pictures."""
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    """How many."""
    gpus_per_node: Size
    """On each of them."""
    partition: Optional[Line] = None
    """Slurm's partition of these nodes."""
    roles: Many[Literal["context", "generation"]] = ()
    """Which roles may lie here; empty: both."""


class Pin(Closed):
    """Where one instance has to lie."""

    nodes: Many[Count] = ()
    """Node numbers, in the order of the instance's ranks."""
    gpus: Many[Count] = ()
    """GPU numbers, on each of its nodes."""


class Cluster(Closed):
    """The nodes there are, and how instances are laid on them."""

    nodes: Optional[Annotated[int, Field(ge=1, le=1_000_000)]] = None
    """How many nodes there are; left out: as many as are needed."""
    gpus_per_node: Size = 8
    """Slots for ranks on each node; on a machine without GPUs: how many ranks it may hold."""
    policy: Literal["pack", "separate_roles", "spread", "align_domain"] = "pack"
    """pack: fewest nodes. separate_roles: no node has both roles. spread: a role's instances far apart. align_domain: inside a domain."""
    domain_nodes: Optional[Size] = None
    """Nodes in one NVLink domain or switch segment (GB200 NVL72: 18)."""
    spare_nodes: Count = 0
    """Nodes asked for beyond the plan, for instances that lost theirs."""
    exclude: Exclude = Exclude()
    """What gets nothing."""
    groups: Many[Group] = ()
    """Unlike nodes; given groups replace `nodes` and `gpus_per_node`."""
    base_port: Annotated[int, Field(ge=1, le=60_000)] = 8001
    """The first instance's HTTP port; others count up from it. Left out on Slurm: raised at start if another run has these."""
    pins: dict[str, Pin] = Field(default_factory=dict)
    """Instance name (ctx0, gen1) -> where it has to lie."""


class Mpi(Closed):
    """Which mpirun starts the single world, and how."""

    flavor: Literal["mpich", "openmpi"] = "mpich"
    """Whose mpirun: MPICH's (hydra), or Open MPI's."""
    command: Optional[Line] = None
    """mpirun's path; left out: found by name."""
    args: Command = ()
    """Further arguments of mpirun."""
    hosts: Many[Line] = ()
    """Host names by node number; left out: this machine, or what the allocation gives."""


class Readiness(Closed):
    """How long is waited for. Seconds."""

    limit_s: Positive = 600.0
    """From start to ready, and up to four times as long as a late instance gets on; left out: reckoned from engine, nodes and weights."""
    stall_s: Positive = 300.0
    """An instance that does not get on for so long is given up; three times as long if it still uses the processor."""
    prove: Literal["auto", "pairs", "cover", "none"] = "auto"
    """Tokens through the router before ready, over: every pair of a context and a generation instance; every instance once; no pair. auto:
    every pair if there are at most 16, otherwise every instance once."""
    prove_s: Positive = 120.0
    """Patience with each pair."""
    interval_s: Positive = 0.5
    """Between two probes of one instance."""
    probe_s: Positive = 2.0
    """One probe's patience."""


class Restart(Closed):
    """What happens when a worker dies after it was ready."""

    on_failure: Literal["stop", "restart"] = "stop"
    """stop: everything is stopped. restart: the instance alone is started again; while it has no node, the others serve on."""
    max_restarts: Count = 3
    """Per instance; counted anew when it has lived for an hour."""
    backoff_s: Seconds = 1.0
    """Pause before the first restart; doubled with each."""
    grace_s: Seconds = 10.0
    """Between asking a process to end and killing it."""
    fence_s: Positive = 30.0
    """A node not heard of for so long is lost: its workers end themselves, and their instance may start elsewhere."""
    hang_s: Seconds = 300.0
    """An instance that lives but answers nothing for so long counts as dead: no request finished, no token on demand. 0: never."""


class Scaled(Closed):
    """How many servers of a role there may be, and how long requests are meant to wait for them on average. Needs a target."""

    min: Size = 1
    """At least so many instances."""
    max: Size
    """At most so many instances."""
    queue_s: Optional[Positive] = None
    """Target: seconds that requests wait in the front door for a worker; they do from router.options.max_in_flight_per_worker on."""
    ttft_s: Optional[Positive] = None
    """Target: seconds until a context server's answer, or a generation server's first token (without a stream: its whole answer)."""
    cool_down_s: Seconds = 60.0
    """After a change of the role, seconds in which it is left alone; it should be longer than a server takes to start."""
    step: Size = 1
    """So many instances more at once, at most; fewer become only one by one."""


class Autoscale(Closed):
    """How many servers there are follows the load. A role that is not named stays as it is."""

    context_servers: Optional[Scaled] = None
    generation_servers: Optional[Scaled] = None
    interval_s: Positive = 5.0
    """Seconds between two looks at the front door's figures."""
    window_s: Positive = 30.0
    """Seconds of them that are judged together."""
    drain_s: Seconds = 120.0
    """Seconds that requests under way get to finish at a server that is to go; nothing else is changed meanwhile."""


class FrontDoor(Closed):
    """What clients talk to."""

    name: RouterName = "builtin"
    """Ours, an engine's own, or any command; none: another run's, at `disagg_cluster.cluster_uri`, where this run's workers register."""
    run: Optional[Line] = None
    """With `name: none`: that run's folder; this run then ends with it."""
    command: Optional[Command] = None
    """With `name: command`: a template with {host} {port} and the workers' URLs; otherwise the program instead of the usual one."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of that router, by its own names."""
    health: Optional[Line] = None
    """The path that answers 200 when it serves."""
    env: Environ = Field(default_factory=dict)
    """Its environment."""


class Lint(Closed):
    """What lint keeps quiet about."""

    ignore: Many[Annotated[str, Field(pattern=r"^DL\d{3}$")]] = ()
    """Numbers of rules: [DL004]"""
