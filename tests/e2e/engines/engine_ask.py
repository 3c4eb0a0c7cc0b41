"""One question to the deployment in DISAGG_URL, whole and streamed; prints both texts as JSON."""

import json
import os
import urllib.request

BODY = {"model": "any", "prompt": "hello there", "max_tokens": 8, "temperature": 0}


def post(url: str, body: dict[str, object]) -> bytes:
    """The answer's bytes."""
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data: bytes = answer.read()
    return data


def texts(url: str) -> tuple[str, str]:
    """The same text, once in one piece and once put together from its events."""
    whole = json.loads(post(url, BODY))["choices"][0]["text"]
    events = [line[6:] for line in post(url, {**BODY, "stream": True}).decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events
    chunks = [json.loads(event) for event in events[:-1]]
    return whole, "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])


if __name__ == "__main__":
    print(json.dumps(texts(os.environ["DISAGG_URL"])))
