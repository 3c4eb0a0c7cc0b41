"""The gateway's side of the run folder: locks that are not there, and addresses that have become another run's."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import pathlib
import threading

import pytest

from disagg_launch.errors import BackendRefused
from disagg_launch.runtime import folder
from disagg_launch.runtime.desk import Desk
from disagg_launch.watch.state import status


def test_a_file_system_without_locks_is_not_taken_for_another_gateway(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "launch.json").touch()

    def without(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", without)  # as Lustre mounted without -o flock
    with pytest.raises(BackendRefused, match=r"state/lock cannot be locked \(Function not implemented\)"):
        folder.claim(str(tmp_path))


def test_an_address_that_another_run_has_now_is_a_gateway_that_is_gone(tmp_path: pathlib.Path) -> None:
    """As after a reboot: what the folder says of its gateway is old, and the port was given to somebody else's."""
    loop = asyncio.new_event_loop()
    desk = Desk(b"another token", 30, lambda *_: {"ok": True}, lambda _: None, lambda *_: None, lambda *_: None)
    port = loop.run_until_complete(desk.open("127.0.0.1"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "token").write_text("ours\n")
        (tmp_path / "state" / "gateway.json").write_text(json.dumps({"address": f"127.0.0.1:{port}"}))
        (tmp_path / "state" / "status.json").write_text(json.dumps({"state": "ready"}))
        with pytest.raises(BackendRefused, match="belongs to another run now"):
            folder.call(str(tmp_path), {"kind": "state"})
        assert status(tmp_path)["state"] == "lost"
    finally:
        asyncio.run_coroutine_threadsafe(desk.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
