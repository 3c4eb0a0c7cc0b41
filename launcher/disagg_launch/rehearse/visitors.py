"""Requests to a deployment under rehearsal, at a steady pace, each told apart: right, an explicit error, wrong, or hanging."""

from __future__ import annotations

import collections
import concurrent.futures
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests

from disagg_launch.rehearse.tokens import expected

RIGHT, ERROR, WRONG, HUNG = ENDS = ("right", "error", "wrong", "hung")
PATIENCE_S = 30.0
MOST_AT_ONCE = 64
TOKENS = 12
KNOCK_S, KNOCK_PATIENCE_S, USUAL = 0.01, 5.0, 20
KNOCK = {"model": "rehearsal", "prompt": "is anybody there", "max_tokens": 1}


def visit(url: str, rate_per_s: float, over: Callable[[], bool]) -> tuple[dict[str, int], list[str]]:
    """How many requests ended how, and what the first few that were not right said; back when `over()` and all have ended."""
    counts: collections.Counter[str] = collections.Counter(dict.fromkeys(ENDS, 0))
    told: list[str] = []
    guard = threading.Lock()

    def one(number: int) -> None:
        end, said = ask(url, number)
        with guard:
            counts[end] += 1
            if end != RIGHT and len(told) < 5:
                told.append(f"request {number} {end}: {said}")

    with concurrent.futures.ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        began, number = time.monotonic(), 0
        while not over():
            if rate_per_s and number < (time.monotonic() - began) * rate_per_s:
                pool.submit(one, number)
                number += 1
            else:
                time.sleep(0.01)
    return dict(counts), told


@dataclass(frozen=True)
class Newcomer:
    """A client who knocked until it was let in: `at` (unix seconds) its first right answer came, `usual_s` how long the next ones took."""

    at: float
    usual_s: float


def newcomer(host: str, port: int, over: Callable[[], bool]) -> Newcomer | None:
    """Who knocks every KNOCK_S until it is answered right; None if it is `over()` before."""
    door = http.client.HTTPConnection(host, port, timeout=KNOCK_PATIENCE_S)
    took_s: list[float] = []
    at = 0.0
    while not over() and len(took_s) <= USUAL:
        began_s = time.monotonic()
        if _knock(door):
            at = at or time.time()
            took_s.append(time.monotonic() - began_s)
        time.sleep(KNOCK_S)
    return Newcomer(at, statistics.median(took_s[1:] or took_s)) if at else None


def _knock(door: http.client.HTTPConnection) -> bool:
    """Whether one request was answered right."""
    try:
        door.request("POST", "/v1/completions", json.dumps(KNOCK), {"content-type": "application/json"})
        answer = door.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException):
        door.close()
        return False
    return answer.status == 200 and json.loads(said)["choices"][0]["text"] == expected(KNOCK["prompt"], 1)


def ask(url: str, number: int) -> tuple[str, str]:
    """How request `number` ended, and what was said: streams and whole answers, chat and completions, take turns."""
    chat, stream = number % 2 == 0, number % 4 < 2
    prompt = f"rehearsal {number}"
    words = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    body = {"model": "rehearsal", "max_tokens": TOKENS, "stream": stream, **words}
    try:
        with requests.post(f"{url}/v1/{'chat/' if chat else ''}completions", json=body, stream=stream, timeout=PATIENCE_S) as answer:
            if answer.status_code != 200:
                return ERROR, answer.text[:200]
            text = _streamed(answer) if stream else _text(answer.json()["choices"][0])
    except requests.exceptions.ChunkedEncodingError:
        return WRONG, "the stream was cut without a word"
    except requests.Timeout:
        return HUNG, f"no answer within {PATIENCE_S:g} s"
    except requests.RequestException as wrong:
        return ERROR, str(wrong)[:200]
    except _ErrorEvent as told:
        return ERROR, str(told)
    return (RIGHT, "") if text == expected(words.get("prompt") or words["messages"], TOKENS) else (WRONG, repr(text))


class _ErrorEvent(Exception):
    """The stream ended with an error that says so."""


def _streamed(answer: requests.Response) -> str:
    """The text of a stream; cut short without a word it is simply too short, which is wrong."""
    text, done = "", False
    for line in answer.iter_lines():
        done = done or line == b"data: [DONE]"
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                raise _ErrorEvent(str(event["error"])[:200])
            text += "".join(_text(choice) for choice in event["choices"])
    return text if done else text + " (cut)"


def _text(choice: dict[str, object]) -> str:
    said = choice.get("message") or choice.get("delta") or {}
    return str(choice.get("text") or (said.get("content") if isinstance(said, dict) else "") or "")
