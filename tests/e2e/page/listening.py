"""Waiting for a router to listen."""

from __future__ import annotations

import time
import urllib.request


def until_listening(port: int) -> str:
    """The address of a router, once it answers."""
    url = f"http://localhost:{port}"
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/version", timeout=10):
                return url
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")
