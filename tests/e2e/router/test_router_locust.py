"""A public load generator against the router, as a user would run one."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from scene import request
from standin import expected
from test_router_processes import program

USERS = "20"


def test_locust_finds_no_failure(play: Any, tmp_path: Path, locust: Path) -> None:
    async def scene() -> None:
        async with program(tmp_path, 2, 2) as one:
            words = [str(locust / "locust"), "--headless", "--json", "--users", USERS, "--spawn-rate", USERS]
            words += ["--run-time", "4s", "--stop-timeout", "20", "--host", f"http://127.0.0.1:{one.port}"]
            words += ["--locustfile", str(Path(__file__).with_name("locustfile.py"))]
            environ = {**os.environ, "TEXT": expected("hello", 4)}
            running = await asyncio.create_subprocess_exec(*words, env=environ, stdout=asyncio.subprocess.PIPE)
            said, _ = await running.communicate()
            assert running.returncode == 0  # locust's own word on it: 1 if any request failed
            rows = {row["name"]: row for row in json.loads(said)}
            assert set(rows) == {"whole", "stream"} and not any(row["num_failures"] for row in rows.values())
            page = (await one.send(request("GET", "/metrics"))).body.decode()
            answered = int(page.split("\ntotal_responses_total ")[1].split("\n")[0])
            assert answered == sum(row["num_requests"] for row in rows.values()) > 0

    play(scene)
