"""What a topology file may hold, as frozen pydantic models; the JSON Schema comes from them.

Our own maps refuse unknown keys. A server section takes any further key: it belongs to the engine. Values are strict (no "8" for 8).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

from pydantic import ConfigDict, Field, field_validator

from disagg_launch.spec.fields import Closed, Command, Count, Environ, Line, Many, Name, Port, Positive, Size, Url
from disagg_launch.spec.maps import Autoscale, Cluster, Engine, FrontDoor, Lint, Mpi, Readiness, Restart
from disagg_launch.spec.slurm import Slurm


class ConditionalDisagg(Closed):
    """When a request may skip the context servers."""

    max_local_prefill_length: Count = 0
    """Tokens that a generation server may prefill by itself."""


class Otlp(Closed):
    """Where traces go."""

    otlp_traces_endpoint: Optional[Line] = None
    """URL of a collector."""


class MinimalInstances(Closed):
    """Below these the front door is not ready."""

    context_servers: Count = 1
    generation_servers: Count = 1


class DisaggCluster(Closed):
    """Service discovery; `inactive_interval_sec` is taken as well as `inactive_timeout_sec`."""

    cluster_uri: Line
    """http://HOST:PORT of the front door, or etcd://HOST:PORT[,...]."""
    cluster_name: str = ""
    """Keeps deployments that share an etcd apart."""
    minimal_instances: MinimalInstances = MinimalInstances()
    """Below these the front door is not ready."""
    heartbeat_interval_sec: Count = 5
    """How often a server says that it is alive."""
    inactive_timeout_sec: Count = 10
    """How long it is believed."""


class MetadataServer(Closed):
    """The prototype's etcd; `refersh_interval` is taken as well as `refresh_interval`."""

    server_type: Literal["etcd"] = "etcd"
    hostname: Line = "localhost"
    """etcd's host."""
    port: Port = 2379
    """etcd's port."""
    health_check_timeout: Positive = 5.0
    """Seconds without a good answer after which a server is dead."""
    refresh_interval: Positive = 10.0
    """Seconds between two readings of the list."""


class Section(Closed):
    """One role's servers. Keys that are not listed are the engine's."""

    model_config = ConfigDict(extra="allow")

    num_instances: Count = 1
    """How many model replicas."""
    tensor_parallel_size: Size = 1
    """Ranks that share each layer."""
    pipeline_parallel_size: Size = 1
    """Stages that layers are cut into."""
    context_parallel_size: Size = 1
    """Ranks that share each sequence."""
    data_parallel_size: Size = 1
    """Replicas inside one instance, each with its own TP x PP x CP ranks (vLLM, SGLang)."""
    router: dict[str, Any] = Field(default_factory=dict)
    """How the front door chooses among these servers: {type: round_robin}"""
    urls: Many[Url] = ()
    """"host:port" of servers that run already."""
    model: Optional[Line] = None
    """Path or name of the model, as the engine takes it; may differ between the roles."""
    env: Environ = Field(default_factory=dict)
    """Environment of this role's workers, over the top level's."""
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
    """Path or name of the model, for both roles."""
    hostname: Line = "localhost"
    """The address that the front door binds."""
    port: Port = 8000
    """The port that the front door binds. Left out on Slurm: raised at start if another run has it."""
    context_servers: Section = Section(num_instances=0)
    """The prefill workers."""
    generation_servers: Section = Section(num_instances=0)
    """The decode workers."""
    engine: Engine = Engine()
    cluster: Cluster = Cluster()
    slurm: Slurm = Slurm()
    mpi: Mpi = Mpi()
    readiness: Readiness = Readiness()
    restart: Restart = Restart()
    autoscale: Optional[Autoscale] = None
    env: Environ = Field(default_factory=dict)
    """Environment of every worker."""
    router: FrontDoor = FrontDoor()
    lint: Lint = Lint()
    metadata_server: Optional[MetadataServer] = None
    disagg_cluster: Optional[DisaggCluster] = None
    conditional_disagg_config: Optional[ConditionalDisagg] = None
    otlp_config: Optional[Otlp] = None
    max_retries: Count = 1
    """Further attempts when a worker cannot be reached."""
    perf_metrics_max_requests: Count = 0
    """Requests whose timings are kept for /perf_metrics; 0: none."""
    node_id: Optional[Annotated[int, Field(ge=0, le=255)]] = None
    """This front door's number in request ids; left out: from the MAC address."""
    schedule_style: Literal["context_first", "generation_first"] = "context_first"
    """Whether the context step comes before the generation step, or both start at once."""
    allow_request_chat_template: bool = False
    """Whether a request may bring its own chat template."""
    server_keep_alive_timeout: Count = 10
    """Seconds that an idle connection is kept."""
    gen_strip_message_history: bool = False
    """A saving of newer TensorRT-LLM routers."""
    gen_tokids_ctxbytes: bool = False
    """A saving of newer TensorRT-LLM routers."""
    num_workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Router processes."""
    disagg_coordinator_url: Optional[Line] = None
    """A coordinator outside this front door."""

    @field_validator("context_servers", "generation_servers", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value
