"""Worker processes of one rank over HTTP: the OpenAI client, the disaggregated protocol, errors, and their ends."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import openai
import pytest
import requests
from worker_process import Start, Worker, until

from disagg_launch.reference.models import Model

PROMPT = "Alice was beginning to"
TEXT = " the\nQueen to the Queen, and she found it was saying to herself"


@pytest.fixture(scope="module")
def worker(start: Start, glass: Model) -> Worker:
    """A worker without a role."""
    return start("glass-en").until_ready()


@pytest.fixture(scope="module")
def pair(start: Start, glass: Model) -> tuple[Worker, Worker]:
    """A context worker and a generation worker."""
    context, generation = start("glass-en", "--server_role", "CONTEXT"), start("glass-en", "--server-role=generation")
    return context.until_ready(), generation.until_ready()


@pytest.fixture
def client(worker: Worker) -> openai.OpenAI:
    """The official client."""
    return openai.OpenAI(base_url=worker.url + "/v1", api_key="none", max_retries=0)


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="glass-en", prompt=PROMPT, max_tokens=16, temperature=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (TEXT, "length")
    assert answer.usage and (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 16, 21)


def test_completion_stream_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model="glass-en", prompt=PROMPT, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.completion_tokens == 16


def test_several_prompts_of_every_kind(client: openai.OpenAI) -> None:
    both = client.completions.create(model="glass-en", prompt=[PROMPT, "The Queen said"], max_tokens=8, temperature=0)
    assert [choice.index for choice in both.choices] == [0, 1]
    ids = client.completions.create(model="glass-en", prompt=[494, 160, 729, 633, 111], max_tokens=8, temperature=0)
    assert ids.choices[0].text == both.choices[0].text


def test_chat_and_its_stream_agree(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Who are you?"}]
    whole = client.chat.completions.create(model="glass-en", messages=messages, max_tokens=12, temperature=0)  # type: ignore[arg-type]
    chunks = list(client.chat.completions.create(model="glass-en", messages=messages, max_tokens=12, temperature=0, stream=True))  # type: ignore[arg-type]
    assert whole.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert whole.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_stop_strings_and_seeds(worker: Worker) -> None:
    stopped = worker.complete(PROMPT, stop=["Queen,", "never"])["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (" the\nQueen to the ", "stop")
    first, again, other = (worker.complete(PROMPT, temperature=1, seed=seed)["choices"][0]["text"] for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("completions", {"prompt": "word " * 200}, "at most 127 fit"),
        ("completions", {}, "prompt"),
        ("completions", {"prompt": []}, "empty list"),
        ("completions", {"prompt": ""}, "empty"),
        ("completions", {"prompt": [1, 99999]}, "vocabulary"),
        ("completions", {"prompt": "a", "n": 2}, "n 2 is not supported"),
        ("completions", {"prompt": "a", "logprobs": 3}, "logprobs 3 is not supported"),
        ("completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("completions", {"prompt": ["a", "b"], "disaggregated_params": {"request_type": "context_only"}}, "exactly one"),
        ("completions", {"prompt": "a", "disaggregated_params": {"request_type": "generation_only"}}, "needs first_gen_tokens"),
        ("completions", {"prompt": "a", "disaggregated_params": {"request_type": "other"}}, "request_type"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
    ],
)
def test_what_is_wrong_is_said_with_400(worker: Worker, path: str, body: dict, reason: str) -> None:
    response = worker.post(f"/v1/{path}", **body)
    error = response.json()
    assert (response.status_code, error["object"], error["type"], error["code"]) == (400, "error", "BadRequestError", 400)
    assert reason in error["message"]


def test_a_body_that_is_no_json_and_a_path_that_is_none(worker: Worker) -> None:
    assert requests.post(worker.url + "/v1/completions", data="{", timeout=10).status_code == 400
    answers = [requests.get(worker.url + path, timeout=10) for path in ("/v2", "/v1/completions")]
    answers.append(requests.post(worker.url + "/v1/completions", data=b" " * ((16 << 20) + 1), timeout=60))
    told = [(one.status_code, one.json()["code"], one.json()["type"]) for one in answers]
    assert told == [(404, 404, "NotFoundError"), (405, 405, "BadRequestError"), (413, 413, "BadRequestError")]


def test_the_small_endpoints(worker: Worker) -> None:
    get = lambda path: requests.get(worker.url + path, timeout=10)  # noqa: E731
    assert get("/health").status_code == get("/health_generate").status_code == 200
    assert get("/v1/models").json()["data"][0]["id"] == "glass-en"
    assert get("/version").json()["version"]
    assert get("/server_info").json()["max_seq_len"] == 128
    worker.complete("a")
    newest = get("/metrics").json()[-1]
    assert newest["iter"] > 0 and newest["kvCacheStats"]["usedNumBlocks"] == 1 + 16
    assert get("/metrics").json() == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_hand_over_by_the_upstream_protocol(pair: tuple[Worker, Worker], worker: Worker, chat: bool, stream: bool) -> None:
    context, generation = pair
    path = "/v1/chat/completions" if chat else "/v1/completions"
    body = {"max_tokens": 16, "temperature": 0, "model": "glass-en"}
    body |= {"messages": [{"role": "user", "content": PROMPT}]} if chat else {"prompt": PROMPT}
    alone = worker.post(path, **body).json()
    first = context.post(path, **body, disaggregated_params={"request_type": "context_only", "disagg_request_id": 77}).json()
    (choice,) = first["choices"]
    params = choice["disaggregated_params"]
    assert choice["finish_reason"] == "length" and len(params["first_gen_tokens"]) == 1 and params["disagg_request_id"] == 77
    assert first["usage"]["completion_tokens"] == 1
    body |= {"disaggregated_params": {**params, "request_type": "generation_only"}, "stream": stream}
    body["prompt_token_ids" if chat else "prompt"] = first["prompt_token_ids"]
    second = generation.post(path, **body)
    assert second.status_code == 200, second.text
    if stream:
        events = [line.removeprefix("data: ") for line in second.text.splitlines() if line]
        assert events[-1] == "[DONE]"
        parts = [json.loads(event)["choices"][0] for event in events[:-1]]
        text = "".join(part["delta"]["content"] if chat else part["text"] for part in parts)
        assert parts[-1]["finish_reason"] == "length"
    else:
        answer = second.json()
        text = answer["choices"][0]["message"]["content"] if chat else answer["choices"][0]["text"]
        assert answer["usage"] == alone["usage"]
    assert text == (alone["choices"][0]["message"]["content"] if chat else alone["choices"][0]["text"])
    again = generation.post(path, **body)
    assert again.status_code == 500 and "freed" in again.json()["message"]


def test_a_generation_request_without_its_cache_has_a_proper_status_also_as_a_stream(pair: tuple[Worker, Worker]) -> None:
    context, generation = pair
    first = context.complete(PROMPT, disaggregated_params={"request_type": "context_only"})
    params = first["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
    for change in ({"ctx_request_id": 5}, {"encoded_opaque_state": "bm8="}):
        refused = generation.post("/v1/completions", prompt=first["prompt_token_ids"], disaggregated_params=params | change, stream=True)
        assert refused.status_code == 400
    assert generation.post("/v1/completions", prompt="Alice was", disaggregated_params=params).status_code == 400


def test_a_client_that_leaves_ends_its_request(start: Start, glass: Model) -> None:
    worker = start("random:1,layers=12,head_size=64,hidden=2048,context=4096", "--max_num_tokens", "16").until_ready()
    address = (worker.url.removeprefix("http://").split(":")[0], int(worker.url.rsplit(":", 1)[1]))
    for body in ({"prompt": [65] * 4000}, {"prompt": "a", "max_tokens": 4000, "stream": True}, {"prompt": "a", "max_tokens": 4000}):
        raw = json.dumps({**body, "ignore_eos": True}).encode()
        with socket.create_connection(address) as leaver:
            leaver.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
            assert until(lambda: busy(worker) == 1)
        assert until(lambda: busy(worker) == 0)


def busy(worker: Worker) -> int:
    """How many requests the worker has under way."""
    count: int = requests.get(worker.url + "/server_info", timeout=10).json()["active_requests"]
    return count


def run(*argv: str, **more: object) -> subprocess.CompletedProcess[str]:
    """A worker that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "disagg_launch.reference", *argv], capture_output=True, text=True, timeout=60, check=False, **more
    )  # type: ignore[call-overload]


def test_a_taken_port_is_said_at_once_with_its_own_status(worker: Worker) -> None:
    done = run("glass-en", "--host", "127.0.0.1", "--port", worker.url.rsplit(":", 1)[1])
    assert done.returncode == 73 and "cannot bind 127.0.0.1" in done.stderr


def test_a_missing_model_names_the_command_that_fetches_it(tmp_path: pathlib.Path) -> None:
    done = run("glass-en", "--port", "0", env={"DISAGG_LAUNCH_CACHE": str(tmp_path)})
    assert done.returncode == 4 and "disagg-launch model pull glass-en" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["glass-en", "--warp_speed", "9"], 2, "--warp_speed"),
        (["gpt-5"], 2, "unknown model"),
        (["glass-en", "--cp_size", "2"], 2, "no context parallelism"),
        (["glass-en", "--tp_size", "2"], 71, "mpiexec -n 2"),
        (["glass-en", "--server_role", "router"], 2, "CONTEXT or GENERATION"),
        (["glass-en", "--max_seq_len", "500"], 2, "beyond the context"),
    ],
)
def test_bad_use_has_a_sentence_and_a_status(argv: list[str], status: int, words: str, glass: Model) -> None:
    done = run(*argv, "--port", "0")
    assert done.returncode == status and words in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_lets_requests_finish_and_ends_with_0(start: Start, glass: Model) -> None:
    worker = start("glass-en").until_ready()
    with requests.post(
        worker.url + "/v1/completions",
        json={"prompt": PROMPT, "max_tokens": 100, "temperature": 0, "stream": True},
        stream=True,
        timeout=60,
    ) as response:
        lines = response.iter_lines()
        next(lines)
        worker.process.terminate()
        assert [line for line in lines if line][-1] == b"data: [DONE]"
    assert worker.process.wait(60) == 0
