#!/usr/bin/env python3
"""Clients that keep asking a front door until it is gone, each with answers of its own length, and say how every request ended.

last_requests.py URL TOKENS...    one client for each TOKENS; a negative number is an answer that is not streamed. Prints a line of JSON per
request: {"tokens", "began", "ended", "how", "text"}, times in seconds since 1970. `how`: whole, error (an event in OpenAI's shape), told
(a status of 503 with Retry-After), refused (no connection), or whatever else went on. Ends when no client gets a connection any more.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

PATIENCE_S = 300  # more than the whole test: a request that takes longer hangs
PROMPT = "hello"
LEAVES_S = 5.0
"""A door that has refused for so long is not opened again."""


def ask(url: str, tokens: int) -> dict[str, Any]:
    """One request, to its end."""
    began = time.time()
    how, text = "refused", ""
    try:
        host = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        body = {"model": "m", "prompt": PROMPT, "max_tokens": abs(tokens), "stream": tokens > 0}
        host.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        how = "reset"
        answer = host.getresponse()
        how = "cut"
        how, text = ended(answer.status, answer.getheader("Retry-After"), answer.read(), tokens > 0)
    except (OSError, http.client.HTTPException) as problem:
        text = repr(problem)
    return {"tokens": tokens, "began": began, "ended": time.time(), "how": how, "text": text}


def ended(status: int, retry: str | None, body: bytes, stream: bool) -> tuple[str, str]:
    """(how, text) of an answer that arrived with all that its framing promised."""
    if status != 200:
        clean = status == 503 and retry and "message" in json.loads(body)["error"]
        return ("told" if clean else f"status {status}"), body.decode()
    if not stream:
        return "whole", str(json.loads(body)["choices"][0]["text"])
    *events, last, rest = body.decode().split("\n\n")
    if last != "data: [DONE]" or rest:
        return "ended without [DONE]", body.decode()[-200:]
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    text = "".join(choice["text"] for one in told for choice in one.get("choices", ()))
    return ("error", str(told[-1]["error"]["message"])) if "error" in told[-1] else ("whole", text)


def client(url: str, tokens: int) -> None:
    """Ask again and again, until there is nobody for a while."""
    gone_since = 0.0
    while not gone_since or time.time() - gone_since < LEAVES_S:
        told = ask(url, tokens)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        gone_since = (gone_since or told["ended"]) if told["how"] == "refused" else 0.0
        if told["how"] in ("refused", "told"):
            time.sleep(0.2)


def main() -> None:
    """Run the clients."""
    url, *counts = sys.argv[1:]
    threads = [threading.Thread(target=client, args=(url, int(count))) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
