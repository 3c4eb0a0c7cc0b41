"""Stand-in for `trtllm-serve`: the sub-commands serve (also without its name), disaggregated and disaggregated_mpi_worker.

Flags, types and defaults are those of the real command line; click refuses what the real one, which is click too, refuses.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

import click
import serving
import trtllm_discovery as discovery
import trtllm_models as models
from pydantic import ValidationError

ROLES = {"CONTEXT": 0, "GENERATION": 1, "MM_ENCODER": 2}


class DefaultServe(click.Group):
    """An unknown first word means `serve MODEL`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with `serve` before an unknown first word."""
        return super().resolve_command(ctx, args if args and args[0] in self.commands else ["serve", *args])


@click.group(cls=DefaultServe)
def main() -> None:
    """trtllm-serve."""


def role(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The role in capitals; the real program converts it to an enumeration and names what is valid."""
    if value is not None and value.upper() not in ROLES:
        raise click.BadParameter(f"Invalid server role: {value}. Must be one of: {', '.join(ROLES)}")
    return value and value.upper()


SERVE: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--host",), {"default": "localhost"}),
    (("--port",), {"type": int, "default": 8000}),
    (("--backend",), {"type": click.Choice(["pytorch", "tensorrt", "trt", "_autodeploy"]), "default": "pytorch"}),
    (("--tokenizer",), {}),
    (("--custom_tokenizer",), {}),
    (("--revision",), {}),
    (("--trust_remote_code",), {"is_flag": True}),
    (("--log_level",), {"type": click.Choice(["internal_error", "error", "warning", "info", "verbose", "debug", "trace"])}),
    (("--max_beam_width",), {"type": int}),
    (("--max_batch_size",), {"type": int}),
    (("--max_num_tokens",), {"type": int}),
    (("--max_seq_len",), {"type": int}),
    (("--tensor_parallel_size", "--tp_size", "tp_size"), {"type": int, "default": 1}),
    (("--pipeline_parallel_size", "--pp_size", "pp_size"), {"type": int, "default": 1}),
    (("--context_parallel_size", "--cp_size", "cp_size"), {"type": int, "default": 1}),
    (("--moe_expert_parallel_size", "--ep_size", "ep_size"), {"type": int}),
    (("--moe_cluster_parallel_size", "--cluster_size", "cluster_size"), {"type": int}),
    (("--gpus_per_node",), {"type": int}),
    (("--free_gpu_memory_fraction", "--kv_cache_free_gpu_memory_fraction"), {"type": float, "default": 0.9}),
    (("--num_postprocess_workers",), {"type": int, "default": 0}),
    (("--config", "--extra_llm_api_options", "config"), {"type": click.Path(exists=True, dir_okay=False)}),
    (("--reasoning_parser",), {}),
    (("--tool_parser",), {}),
    (("--chat_template",), {}),
    (("--media_io_kwargs",), {"type": json.loads}),
    (("--custom_module_dirs",), {"multiple": True, "type": click.Path(exists=True, file_okay=False)}),
    (("--metadata_server_config_file",), {"type": click.Path(exists=True, dir_okay=False)}),
    (("--server_role",), {"callback": role}),
    (("--disagg_cluster_uri",), {}),
    (("--fail_fast_on_attention_window_too_large",), {"is_flag": True}),
    (("--enable_chunked_prefill",), {"is_flag": True}),
    (("--otlp_traces_endpoint",), {}),
    (("--grpc",), {"is_flag": True}),
]


def flags(function: Any) -> Any:
    """The function with every flag of `serve`."""
    for names, settings in reversed(SERVE):
        function = click.option(*names, **settings)(function)
    return function


@main.command("serve")
@click.argument("model")
@flags
def serve(model: str, host: str, port: int, tp_size: int, pp_size: int, cp_size: int, config: str | None, **rest: Any) -> None:
    """One worker."""
    serving.trace("trtllm-serve")
    sizes = {"tensor_parallel_size": tp_size, "pipeline_parallel_size": pp_size, "context_parallel_size": cp_size}
    # the file overrides the command line
    args = models.WorkerArgs(**{**sizes, **(models.read(config) if config else {})})
    metadata = models.metadata(rest["metadata_server_config_file"]) if rest["metadata_server_config_file"] else None
    cluster = args.disagg_cluster
    if uri := rest["disagg_cluster_uri"]:
        cluster = cluster.model_copy(update={"cluster_uri": uri}) if cluster else models.DisaggCluster(cluster_uri=uri)
    assert not (metadata or cluster) or rest["server_role"], "server_role is required when metadata server or disagg cluster is configured"
    assert port or cluster, "port 0 needs a disagg cluster"
    check_cache(args, rest["server_role"])
    check_world(args.tensor_parallel_size * args.pipeline_parallel_size * args.context_parallel_size)
    check_port(host, port)
    argv = serving.command(host, port, rest["server_role"])
    if metadata is None and cluster is None:
        serving.become(argv)
    sys.exit(discovery.serve_registered(argv, model, host, port, rest["server_role"], cluster, metadata))


def check_cache(args: models.WorkerArgs, server_role: str | None) -> None:
    """What the engine refuses about the KV transfer."""
    transceiver = args.cache_transceiver_config
    if server_role and transceiver is None:
        sys.exit("RuntimeError: disaggregated serving needs cache_transceiver_config")
    if server_role == "CONTEXT" and not args.disable_overlap_scheduler:
        sys.exit("ValueError: Context-only requests are not supported with the overlap scheduler: set disable_overlap_scheduler")
    if transceiver and transceiver.backend == "MPI" and os.environ.get("TRTLLM_USE_MPI_KVCACHE") != "1":
        sys.exit("RuntimeError: the MPI backend needs TRTLLM_USE_MPI_KVCACHE=1")
    if transceiver and transceiver.backend in ("DEFAULT", "NIXL"):
        serving.check_ucx()


def check_world(size: int) -> None:
    """Under the wrapper the MPI world has to be the model's; alone, the node's visible GPUs have to suffice for spawned workers."""
    visible = len(serving.visible_gpus())
    if "TLLM_SPAWN_PROXY_PROCESS" in os.environ:
        world = int(os.environ["tllm_mpi_size"])  # noqa: SIM112
        if len(os.environ["TLLM_SPAWN_PROXY_PROCESS_IPC_HMAC_KEY"]) != 64:
            sys.exit("ValueError: the HMAC key must be 64 hex digits")
        if world != size:
            sys.exit(f"RuntimeError: world size {size} of the model does not equal the {world} tasks that were started")
        return
    if size > visible:
        sys.exit(f"ValueError: Only {visible} GPUs are available, but {size} are required.")
    inherited = [name for name in os.environ if name.startswith(("OMPI_COMM_WORLD", "PMIX_RANK", "PMI_RANK", "SLURM_JOB", "SLURM_PROCID"))]
    if size > 1 and inherited:
        sys.exit(f"MPI_ERR_SPAWN: workers cannot be spawned inside another MPI launcher's task ({', '.join(sorted(inherited))} are set)")


def check_port(host: str, port: int) -> None:
    """The socket is bound before the model loads, so a clash fails at once."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as wrong:
            sys.exit(f"RuntimeError: Failed to bind socket to {host}:{port}: {wrong}")


@main.command("disaggregated")
@click.option("-c", "--config_file", type=str)
@click.option("-m", "--metadata_server_config_file", type=str)
@click.option("-t", "--server_start_timeout", type=int, default=180)
@click.option("-r", "--request_timeout", type=int, default=180)
@click.option("-l", "--log_level", default="info")
@click.option("--metrics-log-interval", type=int, default=0)
def disaggregated(config_file: str, metadata_server_config_file: str | None, **rest: Any) -> None:
    """The router."""
    serving.trace("trtllm-serve-disaggregated")
    config = models.router_config(config_file)
    metadata = models.metadata(metadata_server_config_file) if metadata_server_config_file else None
    import trtllm_router

    trtllm_router.run(config, metadata, rest["server_start_timeout"], rest["request_timeout"])


@main.command("disaggregated_mpi_worker")
@click.option("-c", "--config_file", type=click.Path(exists=True, dir_okay=False))
@click.option("--log_level", default="info")
def disaggregated_mpi_worker(config_file: str, log_level: str) -> None:
    """One rank of the single MPI world that holds every instance."""
    serving.trace("trtllm-serve-mpi-worker")
    import trtllm_mpi_worker

    sys.exit(trtllm_mpi_worker.run(models.router_config(config_file)))


def called(words: list[str]) -> int:
    """Exit status of the command line; what the real program raises is said in one line."""
    try:
        main(args=words, prog_name="trtllm-serve")
    except (ValidationError, ValueError, TypeError, KeyError, AssertionError) as wrong:
        sys.exit(f"{type(wrong).__name__}: {wrong}")
    return 0


if __name__ == "__main__":
    sys.exit(called(sys.argv[1:]))
