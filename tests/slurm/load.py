#!/usr/bin/env python3
"""Clients that ask a front door without a pause, by the `openai` package, until standard input closes.

load.py URL CERT CLIENTS PROMPT...

A line for every answer, {"prompt", "text"}, or for every request that failed, {"prompt", "error"}.
CERT: the file by which an https front door is known, whatever its node is called.
"""

from __future__ import annotations

import itertools
import json
import ssl
import sys
import threading

import openai

TOKENS = 16
PATIENCE_S = 60


def ask(client: openai.OpenAI, prompt: str, stream: bool) -> str:
    """The text that follows a prompt."""
    answer = client.completions.create(model="m", prompt=prompt, max_tokens=TOKENS, temperature=0, stream=stream)
    return "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text


def client_loop(url: str, cert: str, prompts: list[str], first: int, over: threading.Event) -> None:
    """One client: prompts in turn, every other answer as a stream."""
    trust = ssl.create_default_context(cafile=cert or None)
    trust.check_hostname = False
    http = openai.DefaultHttpxClient(verify=trust)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S, http_client=http)
    for number in itertools.count(first):
        if over.is_set():
            return
        told = {"prompt": prompts[number % len(prompts)]}
        try:
            told["text"] = ask(client, told["prompt"], number % 2 == 0)
        except openai.OpenAIError as problem:
            told["error"] = repr(problem)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Run the clients."""
    url, cert, count, prompts, over = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4:], threading.Event()
    threads = [threading.Thread(target=client_loop, args=(url, cert, prompts, first, over)) for first in range(count)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
