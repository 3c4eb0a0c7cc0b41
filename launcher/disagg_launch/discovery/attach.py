"""Service discovery as a front door has it: its storage or etcd or a metadata server, watched for as long as the front door lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disagg_launch.discovery.members import Members
from disagg_launch.discovery.memory import SWEEP_S, Memory
from disagg_launch.discovery.metadata import Poll, as_member
from disagg_launch.discovery.served import PATHS, Served
from disagg_launch.errors import BadInput
from disagg_launch.runtime import cluster as clusters
from disagg_launch.runtime.cluster import Cluster
from disagg_launch.runtime.etcd import Etcd
from disagg_launch.runtime.stores import Change

if TYPE_CHECKING:
    from disagg_launch.router.config import Config
    from disagg_launch.router.fleet import Fleet

LOOK_S = 0.2

log = logging.getLogger(__name__)


class Discovery:
    """What a front door finds its workers by. `mounts` are ASGI applications by path, to be served beside the front door's own pages."""

    def __init__(self) -> None:
        self.mounts: Mapping[str, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[Callable[[], None]] = []

    def repeat(self, do: Callable[[], None], every_s: float) -> None:
        """Call `do` again and again."""

        async def forever() -> None:
            while True:
                await asyncio.sleep(every_s)
                do()

        self.run(forever())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have work done until `stop`."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(_over)
        self._tasks.append(task)

    def at_end(self, do: Callable[[], None]) -> None:
        """Have `do` called by `stop`."""
        self._ends.append(do)

    async def stop(self) -> None:
        """Hear of nobody any more."""
        for end in self._ends:
            end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _over(task: asyncio.Task[None]) -> None:
    """None of the work ends by itself: that nobody is heard of any more must not go unsaid."""
    if not task.cancelled() and task.exception() is not None:
        log.error("service discovery has failed: restart the front door", exc_info=task.exception())


def attach(fleet: Fleet, config: Config) -> Discovery:
    """Discovery as the configuration asks for it, begun; nothing if it asks for none. To be called in the event loop."""
    made = Discovery()
    loop = asyncio.get_running_loop()
    if config.cluster is not None:
        members = Members(fleet, clusters.member, config.cluster.inactive_s, loop.time)
        made.repeat(members.look, LOOK_S)
        _watch(made, config.cluster, members, storage_token(config))
    elif config.metadata is not None:
        members = Members(fleet, as_member, config.metadata.refresh_interval, loop.time)
        made.repeat(members.look, LOOK_S)
        made.run(Poll(config.metadata, members.hear).run())
    return made


def storage_token(config: Config) -> str:
    """What has to be shown at our own storage; "" when nobody else reaches it, or when everybody may. BadInput if it is missing."""
    door = config.front_door
    if config.cluster is None or not config.cluster.served or door.cluster_open:
        return ""
    if door.cluster_token_file:
        try:
            found = Path(door.cluster_token_file).read_text().strip()
        except OSError as wrong:
            raise BadInput(f"front_door.cluster_token_file: {door.cluster_token_file}: {wrong.strerror}") from None
        if found:
            return found
        raise BadInput(f"front_door.cluster_token_file: {door.cluster_token_file} is empty; a token is needed")
    if clusters.is_loopback(config.host):
        return ""
    raise BadInput(
        f"hostname {config.host}: whoever reaches it could register as a worker; name a token's file as front_door.cluster_token_file"
        " (workers: DISAGG_CLUSTER_TOKEN_FILE), or say front_door.cluster_open: true for workers that cannot send one (trtllm-serve)"
    )


def _watch(made: Discovery, cluster: Cluster, members: Members, token: str) -> None:
    if cluster.served:
        store = Memory()
        made.mounts = dict.fromkeys(PATHS, Served(store, token))
        made.at_end(store.watch(cluster.prefix, members.hear))
        made.repeat(store.sweep, SWEEP_S)
        return
    loop = asyncio.get_running_loop()
    etcd = Etcd(clusters.endpoints(cluster.uri))
    made.at_end(etcd.watch(cluster.prefix, lambda change: _hand_over(loop, members, change)))


def _hand_over(loop: asyncio.AbstractEventLoop, members: Members, change: Change) -> None:
    """From the watching thread to the loop; a loop that has just ended needs to know nothing."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(members.hear, change)
