"""`disaggregated_mpi_worker`: all context instances, then all generation instances, in one MPI world; the leader of each serves HTTP."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

import serving
import trtllm_models as models


@dataclass(frozen=True)
class Server:
    """One instance: its url, role, ranks, and engine arguments."""

    url: str
    role: str
    size: int
    engine: models.WorkerArgs


def servers(config: models.RouterConfig) -> list[Server]:
    """The instances in rank order, each with its engine's arguments checked."""
    out = []
    for role, section in (("CONTEXT", config.context_servers), ("GENERATION", config.generation_servers)):
        keys = {k: v for k, v in (section.model_extra or {}).items() if k not in ("model", "free_gpu_memory_fraction")}
        sizes = {"tensor_parallel_size": section.tensor_parallel_size, "pipeline_parallel_size": section.pipeline_parallel_size}
        engine = models.WorkerArgs(**keys, **sizes)
        if "model" not in (section.model_extra or {}):
            raise ValueError("model is required for the MPI worker")
        size = section.tensor_parallel_size * section.pipeline_parallel_size
        out += [Server(url, role, size, engine) for url in section.urls or []]
    return out


def run(config: models.RouterConfig) -> int:
    """This rank's part; exit status of the leader's HTTP child, 0 for the others."""
    found = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("SLURM_PROCID"))
    if found is None:
        raise SystemExit("RuntimeError: Could not determine MPI rank from environment")
    rank, gpus = int(found), serving.visible_gpus()
    if not gpus:
        raise SystemExit("RuntimeError: no GPU is visible")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank % len(gpus)]
    all_servers = servers(config)
    offsets = [sum(s.size for s in all_servers[:i]) for i in range(len(all_servers) + 1)]
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    assert world.size == offsets[-1], f"the world has {world.size} ranks, the instances need {offsets[-1]}"
    assert world.rank == rank, f"the environment says rank {rank}, MPI says {world.rank}"
    index = max(i for i, offset in enumerate(offsets[:-1]) if rank >= offset)
    server = all_servers[index]
    group = world.Split(index, rank - offsets[index])
    devices = group.allgather((MPI.Get_processor_name(), os.environ["CUDA_VISIBLE_DEVICES"]))
    assert len(set(devices)) == len(devices), f"two ranks of {server.url} share a GPU: {devices}"
    world.Barrier()
    backend = server.engine.cache_transceiver_config and server.engine.cache_transceiver_config.backend
    if backend == "MPI" and os.environ.get("TRTLLM_USE_MPI_KVCACHE") != "1":
        sys.exit("RuntimeError: the MPI backend needs TRTLLM_USE_MPI_KVCACHE=1")
    if group.rank > 0:
        while True:  # until the launcher ends the world, as the real executor's wait does
            time.sleep(1)
    host, port = server.url.split(":")
    return serving.start(serving.command(host, int(port), server.role)).wait()
