"""What locust's users do: ask, streamed or not, and look at every answer."""

from __future__ import annotations

import os

from locust import HttpUser, task

TEXT = os.environ["TEXT"]


class User(HttpUser):
    """Asks again as soon as it was answered."""

    def ask(self, stream: bool) -> None:
        body = {"model": "m", "prompt": "hello", "max_tokens": 4, "stream": stream}
        name = "stream" if stream else "whole"
        with self.client.post("/v1/completions", json=body, name=name, catch_response=True) as answer:
            events = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: ")]
            right = events[-1:] == ["[DONE]"] and len(events) == 5 if stream else answer.json()["choices"][0]["text"] == TEXT
            if right:
                answer.success()
            else:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")

    @task
    def whole(self) -> None:
        self.ask(False)

    @task
    def stream(self) -> None:
        self.ask(True)
