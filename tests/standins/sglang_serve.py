"""Stand-in for `sglang serve`: the real flag table, the meeting of several nodes, and the bootstrap dialect of prefill and decode."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any, Optional

import dialect
import flag_table
import serving
import side_channel


class Sglang(dialect.Front):
    """Both instances get the same request at the same time; they find each other by bootstrap host, port and room."""

    def __init__(self, model: str, role: str, host: str, bootstrap_port: int) -> None:
        super().__init__(model, role, host)
        self.side, self.bootstrap_port = side_channel.SideChannel(), bootstrap_port

    async def opened(self) -> None:
        """A prefill instance's bootstrap server listens from the start."""
        if self.role == "context":
            await self.side.open(self.host, self.bootstrap_port)

    def told(self, path: str) -> Optional[Any]:
        """As any engine's, and among the server's arguments the bootstrap port."""
        found = super().told(path)
        return {**found, "disaggregation_bootstrap_port": self.bootstrap_port} if found and "disaggregation_mode" in found else found

    async def complete(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, AsyncIterator[bytes]]:
        """Prefill leaves its result under the room, decode fetches it there."""
        room = str(body.get("bootstrap_room"))
        if "bootstrap_room" not in body:
            return 400, dialect.lines(
                [json.dumps({"error": {"message": "Disaggregated request received without bootstrap room id"}}).encode()]
            )
        if self.role == "context":
            status, got, left = await self.prefill(path, body)
            self.side.place(room).set_result(left)
            return status, dialect.lines([json.dumps(got).encode()])
        left = await side_channel.fetch(body["bootstrap_host"], int(body["bootstrap_port"]), room)
        return await self.decode(path, body, left)


def check_shape(args: Namespace) -> None:
    """World size, nodes and visible GPUs fit together, and the role is one."""
    world, nodes = (args.tp_size or 1) * (args.pp_size or 1) * (args.dp_size or 1), args.nnodes or 1
    if world % nodes:
        sys.exit(f"AssertionError: tp_size * pp_size must be divisible by number of nodes ({world} by {nodes})")
    if nodes > 1 and not args.dist_init_addr:
        sys.exit("AssertionError: several nodes need --dist-init-addr")
    if not 0 <= (args.node_rank or 0) < nodes:
        sys.exit(f"AssertionError: --node-rank {args.node_rank} of {nodes} nodes")
    if len(serving.visible_gpus()) != world // nodes:
        sys.exit(f"RuntimeError: {world // nodes} GPUs are needed on this node, {len(serving.visible_gpus())} are visible")
    if args.disaggregation_mode not in ("prefill", "decode"):
        sys.exit("ValueError: --disaggregation-mode prefill or decode is needed here")
    if args.disaggregation_mode == "prefill" and args.disaggregation_transfer_backend == "fake":
        sys.exit("AssertionError: Prefill server does not support 'fake' as the transfer backend")


def main(words: list[str]) -> int:
    """Exit status of the server."""
    serving.trace("sglang")
    if words[:1] != ["serve"]:
        print(f"sglang: error: argument subcommand: invalid choice: {words[:1]}", file=sys.stderr)
        return 2
    words = words[1:] if words[1:2] and words[1].startswith("-") else ["--model-path", *words[1:]]
    args = flag_table.parser("sglang serve", "sglang.json").parse_args(flag_table.normal(words))
    if args.model_path is None:
        print("sglang serve: error: the following arguments are required: --model-path/--model", file=sys.stderr)
        return 2
    check_shape(args)
    if args.disaggregation_transfer_backend == "nixl":
        serving.check_ucx()
    if (args.nnodes or 1) > 1:
        host, port = args.dist_init_addr.rsplit(":", 1)
        side_channel.meet(host, int(port), args.node_rank or 0, args.nnodes)
    role = "context" if args.disaggregation_mode == "prefill" else "generation"
    front = Sglang(args.served_model_name or args.model_path, role, args.host or "127.0.0.1", args.disaggregation_bootstrap_port or 8998)
    return front.run(args.port or 30000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
