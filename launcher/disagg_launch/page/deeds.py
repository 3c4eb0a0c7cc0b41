"""What the page can have done: drain and put back through the router's admin interface, restart as the command `restart` does it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

from disagg_launch.router.admin import message_of
from disagg_launch.router.exchange import refusal

if TYPE_CHECKING:
    from disagg_launch.page.source import Source
    from disagg_launch.router.admin import Admin

AT_ONCE = ("drain", "undrain")
REFUSED_S = 2.0
"""A restart that cannot be done says so within this time; one that goes on is told of among what happened."""


class Deeds:
    """Carries out what an admitted user asks for."""

    def __init__(self, run: Optional[Path], admin: Callable[[], Admin], source: Source) -> None:
        self._run, self._admin, self._source = run, admin, source
        self._running: set[asyncio.Task[str]] = set()

    async def carry_out(self, body: bytes, authorization: bytes, peer: str) -> dict[str, Any]:
        """Do {"what": drain, undrain, restart or nothing, "instance": name}. Refused: see `Admin.admit`; 400, 404 and 409."""
        admin = self._admin()
        admin.admit(authorization, peer)
        message = message_of(body)
        what, name = message.get("what"), message.get("instance")
        if what == "nothing":
            return {"ok": True}
        urls = (await self._source.view()).urls
        if name not in urls:
            raise refusal(404, f"there is no instance {name}")
        if what in AT_ONCE:
            admin.carry_out(what, {"worker": urls[name]})
            self._source.say(name, f"{name} is drained: it gets no new requests" if what == "drain" else f"{name} is put back")
        elif what == "restart" and self._run is not None:
            await self._restart(self._run, name)
        else:
            raise refusal(400, 'needed: {"what": "drain", "undrain" or, with a run folder, "restart", "instance": a name}')
        return {"ok": True}

    async def _restart(self, run: Path, name: str) -> None:
        task = asyncio.ensure_future(_command(run, name))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait((task,), timeout=REFUSED_S)
        if done and task.result():
            raise refusal(409, task.result())
        self._source.say(name, f"{name} is to be restarted")
        if not done:
            task.add_done_callback(lambda ended: self._told(name, ended))

    def _told(self, name: str, ended: asyncio.Task[str]) -> None:
        if not ended.cancelled() and ended.result():
            self._source.say(name, f"its restart failed: {ended.result()}", bad=True)


async def _command(run: Path, name: str) -> str:
    """Run `disagg-launch restart`; what it complained of, "" if it went well."""
    argv = (sys.executable, "-m", "disagg_launch", "restart", str(run), name)
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=quiet, stderr=pipe)
    _, said = await process.communicate()
    text = said.decode("utf-8", "replace").strip()
    return (text or f"exit code {process.returncode}") if process.returncode else ""
