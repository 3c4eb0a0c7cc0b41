"""What one test cluster is called and where it keeps things: everything else is derived from its name. Standard library only."""

from __future__ import annotations

import json
import tempfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cluster:
    """A cluster `name` of `nodes` hosts <name>0, <name>1, ... with `gpus` fake GPUs each.

    `accounting` adds slurmdbd and a private MariaDB; `cgroup` tracks processes by cgroup, as production does, so that a
    daemonised grandchild ends with its step.
    """

    name: str = "node"
    nodes: int = 8
    gpus: int = 4
    accounting: bool = False
    cgroup: bool = False

    @property
    def folder(self) -> Path:
        """Everything the cluster writes; kept short, because unix socket paths are limited to 108 bytes."""
        return Path(tempfile.gettempdir()) / f"slurm-testcluster-{self.name}"

    @property
    def controller(self) -> str:
        """Name of the login and controller host."""
        return f"{self.name}-ctl"

    @property
    def workers(self) -> tuple[str, ...]:
        """Names of the compute nodes."""
        return tuple(f"{self.name}{i}" for i in range(self.nodes))

    @property
    def hosts(self) -> dict[str, int]:
        """Every host and the last byte of its addresses."""
        return {self.controller: 254, **{host: 10 + i for i, host in enumerate(self.workers)}}

    def address(self, host: str, network: int = 0) -> str:
        """Address of a host on network 0 (eth0) or 1 (fast0). Both exist inside the cluster's own namespaces only."""
        return f"10.{231 + network}.{zlib.crc32(self.name.encode()) % 250}.{self.hosts[host]}"

    def netns(self, host: str) -> str:
        """Name of a host's network namespace; the host "hub" is the two switches."""
        return f"testcluster-{self.name}-{host}"

    def save(self) -> None:
        """Write the description, so that later commands know what is up."""
        (self.folder / "cluster.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def saved(name: str) -> Cluster | None:
        """The description of the cluster `name` that was brought up last; None if there is none."""
        try:
            return Cluster(**json.loads((Cluster(name).folder / "cluster.json").read_text()))
        except FileNotFoundError:
            return None
