"""The two hops, as clients and workers see them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scene import cluster
from standin import KNOWN, expected

from disagg_launch.watch import figures

CHAT = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("stream", [False, True])
def test_completion_goes_through_both_hops(play: Any, stream: bool) -> None:
    async def scene() -> None:
        async with cluster() as c:
            answer = await c.complete("hello", 5, stream=stream)
            text = answer.text if stream else answer.json["choices"][0]["text"]
            assert (answer.status, text) == (200, expected("hello", 5))
            ctx, gen = c.ctx[0].seen[0], c.gen[0].seen[0]
            assert (
                ctx["disaggregated_params"]["request_type"] == "context_only" and ctx["stream"] is False and ctx["stream_options"] is None
            )
            assert gen["disaggregated_params"]["request_type"] == "generation_only" and gen["prompt"] == list(b"hello")
            assert gen["disaggregated_params"]["ctx_request_id"] == ctx["disaggregated_params"]["disagg_request_id"]
            assert gen["disaggregated_params"]["encoded_opaque_state"] == "AAAA" and gen.get("stream", False) is stream
            assert 2**40 <= gen["disaggregated_params"]["disagg_request_id"] < 2**63

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_keeps_messages_and_gets_ids(play: Any, stream: bool) -> None:
    async def scene() -> None:
        async with cluster() as c:
            answer = await c.post("/v1/chat/completions", {"model": "m", "messages": CHAT, "max_tokens": 3, "stream": stream})
            text = answer.text if stream else answer.json["choices"][0]["message"]["content"]
            assert text == expected(CHAT, 3)
            assert c.gen[0].seen[0]["messages"] == CHAT and len(c.gen[0].seen[0]["prompt_token_ids"]) > 10

    play(scene)


def test_prompts_of_ids_and_big_prompts_arrive_whole(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            ids = [i % 997 for i in range(40_000)]
            assert (await c.complete(ids, 2)).json["choices"][0]["text"] == expected(ids, 2)
            assert c.ctx[0].seen[0]["prompt"] == ids
            text = 'quote " brace } "prompt_token_ids":[1,2] "prompt":[3] \\ é ' * 500
            assert (await c.complete(text, 2)).json["choices"][0]["text"] == expected(text, 2)

    play(scene)


def test_a_prompt_that_ends_the_answer_never_reaches_generation(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            answer = await c.complete("hello", 5, stop="now")
            assert answer.json["choices"][0]["finish_reason"] == "stop" and "disaggregated_params" not in answer.json["choices"][0]
            assert "prompt_token_ids" not in answer.json
            streamed = await c.complete("hello", 5, stop="now", stream=True)
            assert streamed.done and streamed.events[0]["choices"][0]["finish_reason"] == "stop"
            assert c.gen[0].seen == []

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_batches_and_n_are_joined(play: Any, stream: bool, n: int) -> None:
    async def scene() -> None:
        async with cluster(2, 2) as c:
            prompts = ["one", "two", "three"]
            answer = await c.complete(prompts, 3, n=n, stream=stream, stream_options={"include_usage": True} if stream else None)
            assert answer.status == 200, answer.body
            choices = [x for e in (answer.events if stream else [answer.json]) for x in e["choices"]]
            for index in range(3 * n):
                text = "".join(x["text"] for x in choices if x["index"] == index)
                assert text == expected(prompts[index // n], 3)
            usage = [e["usage"] for e in (answer.events if stream else [answer.json]) if e.get("usage")]
            assert usage == [{"prompt_tokens": 11, "completion_tokens": 9 * n, "total_tokens": 11 + 9 * n}]
            assert not stream or (answer.done and answer.body.count(b"[DONE]") == 1)

    play(scene)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "JSON"),
        (b"[1]", "JSON object"),
        (b"\xff\xfe", "JSON"),
        ({"model": "m"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1.5]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x", "stream": "yes"}, "stream"),
        ({"prompt": "x", "n": 0}, "n must"),
        ({"prompt": "x", "n": 10**9}, "n must"),
        ({"prompt": "x", "n": 2, "best_of": 3}, "best_of"),
        ({"prompt": "x", "n": 2, "seed": "one"}, "seed"),
        ({"prompt": "x", "n": 2, "seed": 2**64 - 1}, "seed"),
        ({"prompt": ["x", "y"], "stream": True, "stream_options": "usage"}, "stream_options"),
    ],
)
def test_bad_requests_are_refused_in_openai_shape(play: Any, body: Any, word: str) -> None:
    async def scene() -> None:
        async with cluster() as c:
            answer = await c.post("/v1/completions", body)
            assert answer.status == 400 and word in answer.json["error"]["message"]
            assert set(answer.json["error"]) == {"message", "type", "param", "code"}
            assert c.ctx[0].seen == []

    play(scene)


@pytest.mark.parametrize("role", ["ctx", "gen"])
@pytest.mark.parametrize("status", ["400", "404", "422", "429", "500", "503"])
@pytest.mark.parametrize("stream", [False, True])
def test_worker_status_reaches_the_client(play: Any, role: str, status: str, stream: bool) -> None:
    async def scene() -> None:
        async with cluster() as c:
            getattr(c, role)[0].mode = status
            answer = await c.complete("hello", 4, stream=stream)
            assert answer.status == int(status) and answer.json["error"]["message"] == "told to"
            tries = len(getattr(c, role)[0].seen)
            assert tries == (1 if status in ("400", "404", "422") else 2)  # max_retries is 1

    play(scene)


def test_pages(play: Any) -> None:
    async def scene() -> None:
        async with cluster(2, 1) as c:
            assert (await c.get("/health")).body == b""
            assert (await c.get("/version")).json["version"]
            assert (await c.get("/v1/models")).json["data"][0]["id"] == "stand-in"
            info = (await c.get("/cluster_info")).json
            assert info["is_ready"] is True and len(info["current_workers"]["context_servers"]) == 2
            assert info["current_workers"]["generation_servers"][0]["role"] == 1
            assert (await c.get("/nothing")).status == 404 and (await c.post("/version", {})).status == 405
            await c.complete("hello")
            page = (await c.get("/metrics")).body.decode()
            assert "\ntotal_requests_total 1\n" in page and "\nctx_completed_requests_total 1\n" in page and 'state="ready"} 1' in page
            for line in page.splitlines():
                assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0

    play(scene)


def test_what_those_who_watch_read_off_the_page(play: Any) -> None:
    async def scene() -> None:
        async with cluster(pause_s=0.02, front_door={"max_in_flight_per_worker": 1, "queue_timeout_s": 30}) as c:
            assert "first_token_time_seconds" not in figures.read((await c.get("/metrics")).body.decode()).values
            began = time.time()
            assert (await c.complete("hello", 5)).json["usage"]["completion_tokens"] == 5
            streamed = await c.complete("hello", 7, stream=True)
            read = figures.read((await c.get("/metrics")).body.decode()).values
            assert read["generated_tokens"] == 5 + len(streamed.events)
            assert began <= read["first_token_time_seconds"] <= time.time()
            two = [asyncio.ensure_future(c.complete("hello", 1000, stream=True)) for _ in range(2)]
            while (now := figures.read((await c.get("/metrics")).body.decode())).workers[c.gen[0].url].active == 0:
                await asyncio.sleep(0.01)
            while (now := figures.read((await c.get("/metrics")).body.decode())).values["requests_queued"] == 0:
                await asyncio.sleep(0.01)
            assert (now.values["requests_in_flight"], now.workers[c.gen[0].url].active) == (2, 1)
            for one in two:
                one.cancel()
            while (now := figures.read((await c.get("/metrics")).body.decode())).values["requests_in_flight"]:
                await asyncio.sleep(0.01)
            assert now.values["requests_queued"] == 0
            assert now.workers[c.gen[0].url]._replace(requests=0) == ("ready", 0, 0, 0, "generation")

    play(scene)


def test_headers_that_go_on_and_headers_that_stay(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            sent = {
                "x-request-id": "rid-42",
                "traceparent": "00-a-b-01",
                "authorization": "Bearer secret",
                "x-custom": "1",
                "cookie": "c=1",
            }
            answer = await c.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, sent)
            assert answer.headers["x-request-id"] == "rid-42"
            for heads in (c.ctx[0].heads[0], c.gen[0].heads[0]):
                assert heads["x-request-id"] == "rid-42" and heads["traceparent"] == "00-a-b-01"
                assert not {"authorization", "x-custom", "cookie"} & set(heads)

    play(scene)


@pytest.mark.parametrize("where", ["ctx", "gen"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_both_hops(play: Any, where: str, stream: bool) -> None:
    async def scene() -> None:
        async with cluster(pause_s=0.05 if where == "gen" else 0) as c:
            if where == "ctx":
                c.ctx[0].mode = "hang"
            worker = getattr(c, where)[0]
            with pytest.raises(asyncio.TimeoutError):
                await c.post("/v1/completions", {"prompt": "x", "max_tokens": 100, "stream": stream}, timeout_s=0.3)
            for _ in range(100):
                if worker.aborted:
                    break
                await asyncio.sleep(0.02)
            assert worker.aborted == 1 and (where == "gen" or c.gen[0].seen == [])
            metrics = (await c.get("/metrics")).body
            assert b"\nclient_disconnects_total 1\n" in metrics and b"\nctx_error_requests_total 0\n" in metrics

    play(scene)


def test_generation_first_asks_both_at_once(play: Any) -> None:
    async def scene() -> None:
        async with cluster(schedule_style="generation_first") as c:
            answer = await c.complete("hello", 4)
            assert answer.json["choices"][0]["text"] == expected("hello", 4)
            ctx, gen = (w.seen[0]["disaggregated_params"] for w in (c.ctx[0], c.gen[0]))
            assert gen["ctx_request_id"] == gen["disagg_request_id"] == ctx["disagg_request_id"]
            assert gen["schedule_style"] == ctx["schedule_style"] == "generation_first" and gen["request_type"] == "generation_only"

    play(scene)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("role", ["ctx", "gen"])
def test_generation_first_shows_nothing_before_both_have_said_yes(play: Any, stream: bool, role: str) -> None:
    async def scene() -> None:
        async with cluster(schedule_style="generation_first") as c:
            assert (await c.complete("hello", 4, stream=stream)).status == 200
            getattr(c, role)[0].mode = "400"
            answer = await c.complete("hello", 4, stream=stream)
            assert answer.status == 400 and answer.json["error"]["message"] == "told to"
            getattr(c, role)[0].mode = "slow"
            answer = await c.complete("hello", 4, stream=stream)
            assert (answer.text if stream else answer.json["choices"][0]["text"]) == expected("hello", 4)
            with pytest.raises(asyncio.TimeoutError):
                getattr(c, role)[0].mode = "hang"
                await c.post("/v1/completions", {"prompt": "x", "max_tokens": 2, "stream": stream}, timeout_s=0.3)
            while not getattr(c, role)[0].aborted:
                await asyncio.sleep(0.02)
            assert b"worker_active_requests" in (page := (await c.get("/metrics")).body)
            assert b'"} 0' in page and b"\nrequests_in_flight 0\n" in page

    play(scene)


FIELDS = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"ü": {"type": "number"}}}}}],
    "logprobs": 5,
    "temperature": 0.1,
    "top_p": 1e-7,
    "stop": ["\n\n", "\u2028", "</s>"],
    "seed": 2**53,
    "user": 'a "quoted" \\ name',
    "no_such_field": {"prompt_token_ids": [1, 2], "deep": [[None, True, 1.5, "x"]]},
}


@pytest.mark.parametrize("padding", [0, 8000])
def test_what_the_router_does_not_know_reaches_both_hops_untouched(play: Any, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("standin.KNOWN", KNOWN | {"no_such_field"})

    async def scene() -> None:
        async with cluster() as c:
            assert (await c.complete("hello" + "x" * padding, 4, **FIELDS)).status == 200
            for seen in (c.ctx[0].seen[0], c.gen[0].seen[0]):
                assert {key: seen[key] for key in FIELDS} == FIELDS

    play(scene)


def test_a_worker_s_word_on_an_unknown_field_is_the_client_s(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            answer = await c.complete("hello", 4, no_such_field=1)
            assert answer.status == 400 and "no_such_field" in answer.json["error"]["message"] and c.gen[0].seen == []

    play(scene)


UPSTREAM_NAMES = (
    *("total_requests_total", "stream_requests_total", "nonstream_requests_total", "validation_exceptions_total"),
    *("http_exceptions_total", "internal_errors_total", "total_responses_total", "queue_latency_seconds_bucket"),
    *(f"{role}_{name}_requests_total" for role in ("ctx", "gen") for name in ("total", "error", "retry", "completed")),
    *(f"{role}_{name}_latency_seconds_sum" for role in ("ctx", "gen") for name in ("first_token", "complete", "per_token")),
)


def test_metrics_have_upstream_s_names_and_prometheus_reads_them(play: Any) -> None:
    async def scene() -> None:
        async with cluster(pause_s=0.03) as c:
            await c.complete("hello", 4, stream=True)
            page = (await c.get("/prometheus/metrics")).body.decode()
            samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
            names = {line.replace("{", " ").split(" ")[0] for line in page.splitlines()}
            assert not set(UPSTREAM_NAMES) - names
            assert {
                "first_token_latency_seconds_sum",
                "inter_token_latency_seconds_sum",
                "kv_hand_over_seconds_sum",
                "worker_state",
            } <= names
            (steps,) = (s.value for s in samples if s.name == "gen_per_token_latency_seconds_count")
            assert steps >= 1

    play(scene)


def test_generation_alone_serves_what_it_has_cached(play: Any) -> None:
    async def scene() -> None:
        aware = {"router": {"type": "kv_cache_aware", "tokens_per_block": 4}}
        async with cluster(1, 2, generation_servers=aware, conditional_disagg_config={"max_local_prefill_length": 16}) as c:
            forged = {"disaggregated_params": {"request_type": "generation_only", "ctx_request_id": 1}, "bootstrap_host": "10.0.0.1"}
            for _ in range(3):
                assert (await c.complete("w" * 400, 2, **forged)).json["choices"][0]["text"] == expected("w" * 400, 2)
            assert len(c.ctx[0].seen) == 1  # the first one only
            assert not [said for g in c.gen for said in g.seen[1:] if said.keys() & forged.keys()]  # nor is a client's word taken for ours
            assert sorted(len(g.seen) for g in c.gen) == [0, 3]

    play(scene)


def test_gen_only_switch(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "1")

    async def scene() -> None:
        async with cluster() as c:
            await c.complete("hello", 3)
            assert c.ctx[0].seen == [] and c.gen[0].seen[0]["ignore_eos"] is True
            params = c.gen[0].seen[0]["disaggregated_params"]
            assert (params["request_type"], params["first_gen_tokens"], params["ctx_request_id"]) == ("generation_only", [7], 1)

    play(scene)
