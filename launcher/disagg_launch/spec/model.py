"""What a topology file may hold, as frozen pydantic models; the JSON Schema comes from them.

Our own maps refuse unknown keys. A server section takes any further key: it belongs to the engine. Values are strict (no "8" for 8).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema, field_validator

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000)]
Positive = Annotated[float, Field(gt=0, le=31_536_000)]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _no_control(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("text without control characters or line breaks")
    return value


def _url(value: str) -> str:
    host, _, port = value.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65_536:
        raise ValueError('"host:port" without a scheme, port 1..65535')
    return value


# A text that may be written as a number; load() puts the scalar in as it was written, so 010 stays 010.
Word = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number"]})]
Line = Annotated[str, AfterValidator(_no_control)]
Url = Annotated[str, AfterValidator(_url)]
Environ = dict[str, Word]
Command = Many[Word]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
EngineName = Literal["reference", "trtllm", "vllm", "sglang", "command"]
RouterName = Literal["builtin", "trtllm", "sglang", "vllm", "command"]


class Closed(BaseModel):
    """A map of ours: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)


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
    version: Optional[Annotated[Word, AfterValidator(_no_control)]] = None
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
    gpus: dict[int, Many[Count]] = Field(default_factory=dict)
    """Node number -> GPU numbers."""


class Group(Closed):
    """Nodes of one kind. Groups follow each other: the first group has the first node numbers."""

    name: Name
    nodes: Annotated[int, Field(ge=1, le=1_000_000)]
    gpus_per_node: Size
    partition: Optional[Line] = None
    roles: Many[Literal["context", "generation"]] = ()
    """Which roles may lie here; empty: both."""


class Pin(Closed):
    """Where one instance has to lie."""

    nodes: Many[Count] = ()
    gpus: Many[Count] = ()
    """GPU numbers, on each of its nodes."""


class Cluster(Closed):
    """The nodes there are, and how instances are laid on them."""

    nodes: Optional[Annotated[int, Field(ge=1, le=1_000_000)]] = None
    """How many nodes there are; left out: as many as are needed."""
    gpus_per_node: Size = 8
    policy: Literal["pack", "separate_roles", "spread", "align_domain"] = "pack"
    """pack: fewest nodes. separate_roles: no node has both roles. spread: a role's instances far apart. align_domain: inside a domain."""
    domain_nodes: Optional[Size] = None
    """Nodes in one NVLink domain or switch segment (GB200 NVL72: 18)."""
    spare_nodes: Count = 0
    """Nodes asked for beyond the plan, for instances that lost theirs."""
    exclude: Exclude = Exclude()
    groups: Many[Group] = ()
    """Unlike nodes; given groups replace `nodes` and `gpus_per_node`."""
    base_port: Annotated[int, Field(ge=1, le=60_000)] = 8001
    """The first instance's HTTP port; others count up from it."""
    pins: dict[str, Pin] = Field(default_factory=dict)
    """Instance name (ctx0, gen1) -> where it has to lie."""


class SlurmPart(Closed):
    """What one Slurm job, or one component of a heterogeneous job, asks for."""

    partition: Optional[Line] = None
    account: Optional[Line] = None
    qos: Optional[Line] = None
    reservation: Optional[Line] = None
    constraint: Optional[Line] = None
    gpus_flag: Optional[Literal["gpus-per-node", "gres", "none"]] = None
    """How GPUs are asked for; left out: the site profile says."""
    gpu_type: Optional[Name] = None
    """The type in gres=gpu:TYPE:N or gpus-per-node=TYPE:N."""
    cpus_per_task: Optional[Size] = None
    memory: Optional[Annotated[Word, AfterValidator(_no_control)]] = None
    nodelist: Optional[Line] = None
    exclude_hosts: Optional[Line] = None
    exclusive: Optional[bool] = None
    segment: Optional[Size] = None
    switches: Optional[Annotated[Word, AfterValidator(_no_control)]] = None
    extra_args: Many[Line] = ()
    """Further sbatch options, one per item, as typed: --licenses=a:1"""


class Het(Closed):
    """A heterogeneous job: what differs for the nodes of a role."""

    context: SlurmPart = SlurmPart()
    generation: SlurmPart = SlurmPart()


class Slurm(SlurmPart):
    """How a job is asked for. What is left out comes from the site profile, or is not said at all."""

    site: Optional[Line] = None
    """Name of a site profile, or the path of one."""
    job_name: Optional[Name] = None
    time: Optional[Annotated[Word, AfterValidator(_no_control)]] = None
    """Time limit as Slurm takes it: minutes, H:MM:SS, D-HH:MM:SS"""
    comment: Optional[Line] = None
    mail_type: Optional[Line] = None
    mail_user: Optional[Line] = None
    dependency: Optional[Line] = None
    array: Optional[Annotated[Word, AfterValidator(_no_control)]] = None
    requeue: Optional[bool] = None
    mode: Literal["step-per-instance", "single-srun", "single-mpirun"] = "step-per-instance"
    """How ranks are started: an srun per instance, one srun for all, or one mpirun for all."""
    mpi: Optional[Name] = None
    """srun's --mpi: pmix, pmi2, none; left out: the site profile says."""
    srun_args: Many[Line] = ()
    """Further srun options of every step."""
    container_image: Optional[Line] = None
    container_mounts: Many[Line] = ()
    """from:to[:flags]"""
    container_name: Optional[Line] = None
    container_workdir: Optional[Line] = None
    container: Optional[Literal["pyxis", "apptainer", "none"]] = None
    """What runs containers; left out: the site profile says."""
    interface: Optional[Line] = None
    """Network interface whose address the nodes are reached by."""
    numa_bind: bool = False
    """Bind workers' memory with numactl (GB200, GB300)."""
    signal_s: Count = 60
    """Seconds before the time limit at which the job is told to end."""
    drain_s: Count = 30
    """Seconds that requests in flight get to finish."""
    het: Optional[Het] = None


class Mpi(Closed):
    """Which mpirun starts the single world, and how."""

    flavor: Literal["mpich", "openmpi"] = "mpich"
    command: Optional[Line] = None
    """mpirun's path; left out: found by name."""
    args: Command = ()
    hosts: Many[Line] = ()
    """Host names by node number; left out: this machine, or what the allocation gives."""


class Readiness(Closed):
    """How long is waited for. Seconds."""

    limit_s: Positive = 600.0
    """From start to ready."""
    stall_s: Optional[Positive] = None
    """Nothing new from an instance for so long: given up; left out: only limit_s counts."""
    interval_s: Positive = 0.5
    """Between two probes of one instance."""
    probe_s: Positive = 2.0
    """One probe's patience."""


class Restart(Closed):
    """What happens when a worker dies after it was ready."""

    on_failure: Literal["stop", "restart"] = "stop"
    max_restarts: Count = 3
    """Per instance."""
    backoff_s: Seconds = 1.0
    """Pause before the first restart; doubled with each."""
    grace_s: Seconds = 10.0
    """Between asking a process to end and killing it."""


class FrontDoor(Closed):
    """What clients talk to."""

    name: RouterName = "builtin"
    command: Optional[Command] = None
    """With `name: command`: a template with {host} {port} and the workers' URLs; otherwise the program instead of the usual one."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of that router, by its own names."""
    health: Optional[Line] = None
    env: Environ = Field(default_factory=dict)


class Lint(Closed):
    """What lint keeps quiet about."""

    ignore: Many[Annotated[str, Field(pattern=r"^DL\d{3}$")]] = ()


class ConditionalDisagg(Closed):
    """When a request may skip the context servers."""

    max_local_prefill_length: Count = 0


class Otlp(Closed):
    """Where traces go."""

    otlp_traces_endpoint: Optional[Line] = None


class MinimalInstances(Closed):
    """Below these the front door is not ready."""

    context_servers: Count = 1
    generation_servers: Count = 1


class DisaggCluster(Closed):
    """Service discovery; `inactive_interval_sec` is taken as well as `inactive_timeout_sec`."""

    cluster_uri: Line
    cluster_name: str = ""
    minimal_instances: MinimalInstances = MinimalInstances()
    heartbeat_interval_sec: Count = 5
    inactive_timeout_sec: Count = 10


class MetadataServer(Closed):
    """The prototype's etcd; `refersh_interval` is taken as well as `refresh_interval`."""

    server_type: Literal["etcd"] = "etcd"
    hostname: Line = "localhost"
    port: Port = 2379
    health_check_timeout: Positive = 5.0
    refresh_interval: Positive = 10.0


class Section(Closed):
    """One role's servers. Keys that are not ours are the engine's: `engine_keys`."""

    model_config = ConfigDict(extra="allow")

    num_instances: Count = 1
    tensor_parallel_size: Size = 1
    pipeline_parallel_size: Size = 1
    context_parallel_size: Size = 1
    data_parallel_size: Size = 1
    """Replicas inside one instance, each with its own TP x PP x CP ranks (vLLM, SGLang)."""
    router: dict[str, Any] = Field(default_factory=dict)
    """How the front door chooses among these servers: {type: round_robin}"""
    urls: Many[Url] = ()
    """"host:port" of servers that run already."""
    model: Optional[Line] = None
    env: Environ = Field(default_factory=dict)
    command: Optional[Command] = None
    """The workers' command, instead of the engine's."""
    health: Optional[Line] = None
    """The path that answers 200 when a worker is ready."""

    @property
    def size(self) -> int:
        """Ranks of one instance."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size * self.data_parallel_size

    @property
    def engine_keys(self) -> dict[str, Any]:
        """Everything that is not ours, the top level's keys included."""
        return dict(self.model_extra or {})


class Topology(Closed):
    """A topology file. Further keys at the top level are the engine's and count for both server sections."""

    model_config = ConfigDict(extra="allow")

    name: Name = "disagg"
    """The deployment's name."""
    model: Optional[Line] = None
    hostname: Line = "localhost"
    """The address that the front door binds."""
    port: Port = 8000
    context_servers: Section = Section(num_instances=0)
    generation_servers: Section = Section(num_instances=0)
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    slurm: Slurm = Slurm()
    mpi: Mpi = Mpi()
    readiness: Readiness = Readiness()
    restart: Restart = Restart()
    env: Environ = Field(default_factory=dict)
    """Environment of every worker."""
    router: FrontDoor = FrontDoor()
    lint: Lint = Lint()
    metadata_server: Optional[MetadataServer] = None
    disagg_cluster: Optional[DisaggCluster] = None
    conditional_disagg_config: Optional[ConditionalDisagg] = None
    otlp_config: Optional[Otlp] = None
    max_retries: Count = 1
    perf_metrics_max_requests: Count = 0
    node_id: Optional[Annotated[int, Field(ge=0, le=255)]] = None
    schedule_style: Literal["context_first", "generation_first"] = "context_first"
    allow_request_chat_template: bool = False
    server_keep_alive_timeout: Count = 10
    gen_strip_message_history: bool = False
    gen_tokids_ctxbytes: bool = False
    num_workers: Annotated[int, Field(ge=1, le=1024)] = 1
    disagg_coordinator_url: Optional[Line] = None

    @field_validator("context_servers", "generation_servers", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value
