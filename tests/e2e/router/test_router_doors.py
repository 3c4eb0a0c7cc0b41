"""Who may come in, with what, and how much of it: keys, limits, smuggling, injection, TLS, records, other dialects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from scene import cluster, read_answer, request
from standin import StandIn, expected

OK = {"prompt": "hello", "max_tokens": 2}


def test_keys_are_asked_for_and_never_written_down(play: Any, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys", tmp_path / "access.log"
    keys.write_text("sk-very-secret\n")

    async def scene() -> None:
        async with cluster(front_door={"api_keys_file": str(keys), "access_log": str(log)}) as c:
            for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "sk-very-secret"}):
                answer = await c.post("/v1/completions", OK, headers)
                assert (
                    answer.status == 401 and answer.json["error"]["type"] == "authentication_error" and "www-authenticate" in answer.headers
                )
            assert c.ctx[0].seen == [] and (await c.get("/v1/models")).status == 401
            good = {"authorization": "Bearer sk-very-secret"}
            assert (await c.post("/v1/completions", OK, good)).status == 200
            assert (await c.get("/health")).status == 200
            assert b"secret" not in (await c.get("/metrics")).body

    play(scene)
    line = json.loads(log.read_text().splitlines()[-1])
    assert line["client"].startswith("key-") and line["status"] == 200 and line["gen"] and line["ttft_us"] > 0
    assert "secret" not in log.read_text()


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4 4\r\n\r\nabcd",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nx-request-id: a\x00b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nx-request-id: a\rx-evil: 1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\nx: y\n\nGET /health HTTP/1.1\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_requests_that_could_be_read_in_two_ways_are_refused_and_the_connection_ends(play: Any, raw: bytes) -> None:
    async def scene() -> None:
        async with cluster() as c:
            reader, writer = await asyncio.open_connection("127.0.0.1", c.port)
            writer.write(raw + b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
            said = await asyncio.wait_for(reader.read(), 10)
            assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 411", b"HTTP/1.1 413")) and b'"version"' not in said
            assert c.ctx[0].seen == [] and (await c.complete("hello", 2)).status == 200
            writer.close()

    play(scene)


def test_limits_on_heads_and_bodies(play: Any) -> None:
    async def scene() -> None:
        async with cluster(front_door={"max_body_bytes": 10_000, "max_header_bytes": 4096, "header_timeout_s": 0.5}) as c:
            assert (await c.complete("x" * 20_000)).status == 413
            chunks = b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(5))
            assert (await c.send(b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)).status == 413
            whole = b"2fff\r\n" + b"x" * 0x2FFF + b"\r\n0\r\n\r\n"  # one piece, one read
            assert (await c.send(b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + whole)).status == 413
            assert (await c.get("/health", {"x-big": "y" * 200_000})).status in (400, 431)
            for slow in (b"GET /health HTT", b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\nab"):
                assert (await c.send(slow)).status == 408
            assert (await c.complete("hello", 2)).status == 200

    play(scene)


def test_a_connection_serves_many_requests_also_sent_ahead(play: Any) -> None:
    async def scene() -> None:
        async with cluster() as c:
            reader, writer = await asyncio.open_connection("127.0.0.1", c.port)
            one = request("POST", "/v1/completions", OK).replace(b"connection: close\r\n", b"")
            writer.write(one * 20)
            for _ in range(20):
                assert (await read_answer(reader)).json["choices"][0]["text"] == expected("hello", 2)
            writer.write(b"HEAD /version HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            body = json.dumps(OK).encode()
            writer.write(b"POST /v1/completions HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await read_answer(reader)).status == 200
            writer.close()
            streamed = json.dumps({**OK, "stream": True}).encode()
            old = b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b"
            reader, writer = await asyncio.open_connection("127.0.0.1", c.port)
            writer.write(old % (len(streamed), streamed))
            said = await asyncio.wait_for(reader.read(), 5)
            assert b"transfer-encoding" not in said and said.endswith(b"data: [DONE]\n\n")
            writer.close()

    play(scene)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_port_of_its_own_for_the_admin(play: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    port, admin = free_port(), {"authorization": "Bearer s3cret"}

    async def scene() -> None:
        async with cluster(front_door={"admin_token_file": str(token), "admin_port": port}) as c:
            ask = request("GET", "/admin/workers", None, admin)
            assert (await c.send(ask)).status == 404
            assert (await c.send(request("GET", "/admin/workers"), inside=True)).status == 401
            assert len((await c.send(ask, inside=True)).json) == 2
            assert (await c.send(request("GET", "/metrics"), inside=True)).status == 200
            assert (await c.send(request("POST", "/v1/completions", OK), inside=True)).status == 404 and c.ctx[0].seen == []
            assert (await c.complete("hello", 2)).status == 200

    play(scene)


@pytest.mark.parametrize("inside", [False, True])
def test_workers_register_at_the_port_that_the_cluster_uri_names(play: Any, inside: bool) -> None:
    port = free_port()
    at = {"cluster_uri": f"http://127.0.0.1:{port if inside else 8000}"}
    registering = request("POST", "/set", {"key": "/trtllm-disagg/x", "value": "1"})

    async def scene() -> None:
        async with cluster(0, 0, front_door={"admin_port": port}, disagg_cluster=at) as c:
            assert (await c.send(registering)).status == (404 if inside else 200)
            assert (await c.send(registering, inside=True)).status == (200 if inside else 400)  # 400: the key is there already

    play(scene)


def test_nobody_else_s_pages_may_ask(play: Any) -> None:
    """CORS is off: no answer allows another origin anything, and a browser's question beforehand is refused."""

    async def scene() -> None:
        async with cluster() as c:
            origin = {"origin": "http://evil.example", "access-control-request-method": "POST"}
            asked = [await c.send(request("OPTIONS", "/v1/completions", None, origin))]
            asked += [await c.post("/v1/completions", OK, origin), await c.get("/health", origin)]
            assert [a.status for a in asked] == [405, 200, 200]
            assert not any(name.startswith("access-control") for a in asked for name in a.headers)

    play(scene)


def test_tls_is_for_clients(play: Any, tmp_path: Path) -> None:
    """Streams and long bodies by TLS; who is inside asks in plain HTTP, and gets no completion; who takes the wrong door is let go."""
    cert, key = certificate(tmp_path)
    inside = f"127.0.0.1:{free_port()}"

    async def scene() -> None:
        async with cluster(front_door={"tls_cert_file": str(cert), "tls_key_file": str(key), "plain_address": inside}) as c:
            answer = await c.complete("hello", 6, stream=True)
            assert answer.done and answer.text == expected("hello", 6)
            assert (await c.complete(list(range(200_000)), 2)).status == 200
            assert (await c.send(request("GET", "/metrics"), inside=True)).status == 200
            assert (await c.send(request("POST", "/v1/completions", OK), inside=True)).status == 404
            assert [(await c.send(request("GET", "/ui/"), inside=one)).status for one in (False, True)] == [200, 404]
            reader, writer = await asyncio.open_connection("127.0.0.1", c.port)
            writer.write(request("POST", "/v1/completions", OK))
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/" not in await asyncio.wait_for(reader.read(), 20)
            writer.close()
            assert (await c.get("/health")).status == 200
            reader, writer = await c.connect()
            writer.write(request("GET", "/version").replace(b"connection: close\r\n", b""))
            assert (await read_answer(reader)).status == 200
            c.cert = ""  # the end of it all, with a connection that stays open and idle
        writer.close()

    play(scene)


def test_a_renewed_certificate_is_shown_and_half_of_one_is_not(play: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = certificate(tmp_path)
    new_cert, new_key = certificate(tmp_path, "new")
    inside = f"127.0.0.1:{free_port()}"
    caplog.set_level("INFO", "disagg_launch.router.tls")

    async def told(what: str) -> None:
        while what not in caplog.text:
            await asyncio.sleep(0.05)

    async def scene() -> None:
        async with cluster(0, 0, front_door={"tls_cert_file": str(cert), "tls_key_file": str(key), "plain_address": inside}) as c:
            c.cert = str(tmp_path / "old.pem")
            shutil.copy(cert, c.cert)
            new_cert.replace(cert)
            await asyncio.wait_for(told("not read again"), 20)
            assert (await c.get("/version")).status == 200
            new_key.replace(key)
            await asyncio.wait_for(told("the certificate was read again"), 20)
            with pytest.raises(ssl.SSLCertVerificationError):
                await c.get("/version")
            c.cert = str(cert)
            assert (await c.get("/version")).status == 200

    play(scene)


def test_vllm_workers(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [[1, 2]], "remote_engine_id": "e", "remote_port": 1}

    async def route(self: StandIn, line: list[str], headers: Any, raw: bytes, reader: Any, writer: Any) -> None:
        self.seen.append(json.loads(raw or b"{}"))
        answer = {"choices": [{"index": 0, "text": self.role}], "kv_transfer_params": given if self.role == "context" else None}
        out = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(out), out))

    monkeypatch.setattr(StandIn, "_route", route)

    async def scene() -> None:
        async with cluster(front_door={"dialect": "vllm", "health_interval_s": 9}) as c:
            answer = await c.complete("hello", 7, max_completion_tokens=7, stream_options={"a": 1})
            assert answer.json["choices"][0]["text"] == "generation"
            first, second = c.ctx[0].seen[-1], c.gen[0].seen[-1]
            assert (first["max_tokens"], first["max_completion_tokens"], first["stream"], first["min_tokens"]) == (1, 1, False, 1)
            assert first["kv_transfer_params"]["do_remote_decode"] is True and "stream_options" not in first
            assert second["kv_transfer_params"] == given and second["prompt"] == "hello" and second["max_tokens"] == 7

    play(scene)


def test_sglang_workers(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def route(self: StandIn, line: list[str], headers: Any, raw: bytes, reader: Any, writer: Any) -> None:
        if raw:
            self.seen.append(json.loads(raw))
        answer = {"choices": [{"index": 0, "text": self.role}], "disaggregation_bootstrap_port": 9123}
        out = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(out), out))

    monkeypatch.setattr(StandIn, "_route", route)

    async def scene() -> None:
        async with cluster(front_door={"dialect": "sglang"}) as c:
            answer = await c.complete("hello", 7)
            assert answer.json["choices"][0]["text"] == "generation"
            assert c.ctx[0].seen == c.gen[0].seen and c.ctx[0].seen[0]["prompt"] == "hello"
            room = {k: v for k, v in c.gen[0].seen[0].items() if k.startswith("bootstrap")}
            assert room["bootstrap_host"] == "127.0.0.1" and room["bootstrap_port"] == 9123 and 0 <= room["bootstrap_room"] < 2**63

    play(scene)


def test_perf_metrics_join_what_workers_say(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StandIn._route

    async def route(self: StandIn, line: list[str], headers: Any, raw: bytes, reader: Any, writer: Any) -> None:
        if line[1] != "/perf_metrics":
            await real(self, line, headers, raw, reader, writer)
            return
        entries = [
            {"request_id": 7, "ctx_request_id": b["disaggregated_params"]["disagg_request_id"], "perf_metrics": self.role}
            for b in self.seen
        ]
        out = json.dumps(entries).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(out), out))

    monkeypatch.setattr(StandIn, "_route", route)

    async def scene() -> None:
        async with cluster(perf_metrics_max_requests=10) as c:
            await c.complete("hello", 2)
            entry = (await c.get("/perf_metrics")).json[0]
            assert (entry["ctx_server"], entry["gen_server"]) == (c.ctx[0].url, c.gen[0].url)
            assert entry["ctx_perf_metrics"]["perf_metrics"] == "context" and entry["gen_perf_metrics"]["perf_metrics"] == "generation"
            assert 0 < entry["disagg_server_first_token_time"] - entry["disagg_server_arrival_time"] < 20
            assert (await c.get("/perf_metrics")).json == []

    play(scene)
