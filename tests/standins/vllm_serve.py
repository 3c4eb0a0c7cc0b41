"""Stand-in for `vllm serve`: the real flag table, the connector's rules, the meeting of nodes, the kv_transfer_params dialect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

import dialect
import flag_table
import serving
import side_channel
import vllm_mooncake

# those of the version that the flag table is of, and one that older versions have
CONNECTORS = (*json.loads((flag_table.TABLES / "vllm.json").read_text())["connectors"], "P2pNcclConnector")
TRANSFER_KEYS = {
    "kv_connector", "engine_id", "kv_buffer_device", "kv_role", "kv_port", "kv_connector_extra_config", "kv_connector_module_path",
    "enable_permute_local_kv", "kv_load_failure_policy", "kv_buffer_size", "kv_rank", "kv_parallel_size", "kv_ip",
}  # fmt: skip


class Vllm(dialect.Front):
    """do_remote_decode leaves the KV cache and says where; do_remote_prefill goes there."""

    def __init__(self, model: str, role: str, host: str, side: tuple[str, int]) -> None:
        super().__init__(model, role, host)
        self.side, self.engine_id = side_channel.SideChannel(), uuid.uuid4().hex
        self.side_host, self.side_port = side

    async def opened(self) -> None:
        """The side channel listens from the start."""
        await self.side.open(self.side_host, self.side_port)

    async def complete(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, AsyncIterator[bytes]]:
        """Prefill, decode or plain, by the request's kv_transfer_params."""
        params = body.get("kv_transfer_params") or {}
        if params.get("do_remote_decode"):
            return await self.remote_decode(path, body)
        if params.get("do_remote_prefill"):
            left = await side_channel.fetch(params["remote_host"], params["remote_port"], params["remote_request_id"])
            return await self.decode(path, body, left)
        return await self.plain(path, dialect.known(body))

    async def remote_decode(self, path: str, body: dict[str, Any]) -> tuple[int, AsyncIterator[bytes]]:
        """Prefill's answer, with where its KV cache is."""
        status, got, left = await self.prefill(path, body)
        if status == 200:
            request = uuid.uuid4().hex
            self.side.place(request).set_result(left)
            got["kv_transfer_params"] = {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_block_ids": [[0]],
                "remote_engine_id": self.engine_id,
                "remote_request_id": request,
                "remote_host": self.side_host,
                "remote_port": self.side_port,
                "tp_size": 1,
            }
        return status, dialect.lines([json.dumps(got).encode()])


def transfer(args: Namespace) -> dict[str, Any]:
    """--kv-transfer-config, checked as the real configuration class checks it."""
    config = args.kv_transfer_config
    if config is None:
        return {}
    if unknown := sorted(set(config) - TRANSFER_KEYS):
        sys.exit(f"vllm serve: error: argument --kv-transfer-config: ValidationError: unexpected keyword argument {', '.join(unknown)}")
    if config.get("kv_role") not in ("kv_producer", "kv_consumer", "kv_both"):
        sys.exit(f"ValueError: Unsupported kv_role: {config.get('kv_role')}")
    if str(config.get("kv_connector")).startswith("Nixl"):
        serving.check_ucx()
    if config.get("kv_connector") not in CONNECTORS:
        sys.exit(f"ValueError: Unsupported connector type: {config.get('kv_connector')}")
    return dict(config)


def check_shape(args: Namespace) -> None:
    """World size, nodes and visible GPUs fit together."""
    sizes = (args.tensor_parallel_size, args.pipeline_parallel_size, args.data_parallel_size, args.prefill_context_parallel_size)
    world = 1
    for size in sizes:
        world *= size or 1
    nodes, rank = args.nnodes or 1, args.node_rank or 0
    if world % nodes:
        sys.exit(f"ValueError: Invalid data-parallel launch options: --nnodes {nodes} must evenly divide the total world size ({world})")
    if not 0 <= rank < nodes:
        sys.exit(f"ValueError: --node-rank must be between 0 and {nodes - 1}; got {rank}")
    if bool(args.headless) != (rank > 0):
        sys.exit(f"ValueError: node rank {rank} with headless={bool(args.headless)}: every node but the first is headless")
    if args.distributed_executor_backend == "ray":
        if nodes > 1:
            sys.exit("ValueError: --nnodes is for vLLM's own executor; Ray finds the nodes itself")
        if world > gpus_of_ray():
            sys.exit("ValueError: The number of required GPUs exceeds the total number of available GPUs in the placement group.")
    elif len(serving.visible_gpus()) != world // nodes:
        sys.exit(f"ValueError: World size {world // nodes} of this node does not equal the {len(serving.visible_gpus())} visible GPUs")


def gpus_of_ray() -> int:
    """How many GPUs the Ray around this process has: the stand-in says so, a real one (STANDIN_RAY_PYTHON has it installed) is asked."""
    if python := os.environ.get("STANDIN_RAY_PYTHON"):
        ask = "import ray; ray.init(address='auto', logging_level='ERROR'); print(ray.cluster_resources().get('GPU', 0))"
        said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
        return int(float(said.split()[-1]))
    return int(os.environ.get("STANDIN_RAY_GPUS", "0"))


def main(words: list[str]) -> int:
    """Exit status of the server."""
    serving.trace("vllm")
    if words[:1] != ["serve"]:
        print(f"vllm: error: argument subparser: invalid choice: {words[:1]}", file=sys.stderr)
        return 2
    parser = flag_table.parser("vllm serve", "vllm.json")
    parser.add_argument("model_tag", nargs="?")
    args = parser.parse_args(flag_table.normal(words[1:]))
    config = transfer(args)
    check_shape(args)
    if (args.nnodes or 1) > 1:
        if not args.master_addr or not args.master_port:
            sys.exit("ValueError: several nodes need --master-addr and --master-port")
        side_channel.meet(args.master_addr, args.master_port, args.node_rank or 0, args.nnodes)
    model, host = args.model_tag or args.model, args.host or "127.0.0.1"
    role = {"kv_producer": "CONTEXT", "kv_consumer": "GENERATION"}.get(config.get("kv_role", ""), os.environ.get("DISAGG_ROLE", "context"))
    front: dialect.Front
    if config.get("kv_connector") == "MooncakeConnector":
        front = vllm_mooncake.Mooncake(model, role, host, int(os.environ.get("VLLM_MOONCAKE_BOOTSTRAP_PORT", "8998")))
    else:
        side = os.environ.get("VLLM_NIXL_SIDE_CHANNEL_HOST", "localhost"), int(os.environ.get("VLLM_NIXL_SIDE_CHANNEL_PORT", "5600"))
        front = Vllm(model, role, host, side)
    return front.run(args.port or 8000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
