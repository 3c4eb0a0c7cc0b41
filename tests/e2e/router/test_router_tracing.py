"""OpenTelemetry: what a real OTLP receiver gets of requests, and that nothing is lost without one."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from scene import cluster
from standin import expected

from disagg_launch.errors import BadInput
from disagg_launch.router.config import parse

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "x-request-id": "rid-1"}


class Collector:
    """An OTLP/HTTP endpoint that keeps the spans it is sent."""

    def __init__(self) -> None:
        spans: list[Any] = []
        services: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                raw = gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw
                for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
                    services.update(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                    spans.extend(span for scope in resource.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self.spans, self.services = spans, services
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.end()


def facts(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_in_the_client_s_trace_with_one_for_each_hop(play: Any, collector: Collector, stream: bool) -> None:
    heads: list[dict[str, str]] = []
    urls: list[str] = []

    async def scene() -> None:
        async with cluster(otlp_config={"otlp_traces_endpoint": collector.url}) as c:
            answer = await c.post("/v1/completions", {"prompt": "hello", "max_tokens": 3, "stream": stream}, ASKED)
            assert answer.status == 200
            heads.extend([c.ctx[0].heads[0], c.gen[0].heads[0]])
            urls.extend([c.ctx[0].url, c.gen[0].url])

    play(scene)  # what was not sent before is sent when the router ends
    (request,), (ctx,), (gen,) = (collector.named(name) for name in ("POST /v1/completions", "context", "generation"))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE} and request.parent_span_id.hex() == PARENT
    assert ctx.parent_span_id == gen.parent_span_id == request.span_id
    assert [h["traceparent"] for h in heads] == [f"00-{TRACE}-{span.span_id.hex()}-01" for span in (ctx, gen)]
    assert all(h["tracestate"] == "vendor=1" and h["x-request-id"] == "rid-1" for h in heads)
    assert [f"{facts(s)['server.address']}:{facts(s)['server.port']}" for s in (ctx, gen)] == urls
    said = facts(request)
    assert (said["disagg.ctx"], said["disagg.gen"]) == tuple(urls) and said["request.id"] == "rid-1" and said["disagg.ttft_s"] > 0
    assert request.start_time_unix_nano <= ctx.start_time_unix_nano <= ctx.end_time_unix_nano <= gen.end_time_unix_nano
    assert gen.end_time_unix_nano <= request.end_time_unix_nano and collector.services == {"disagg-launch-router"}


def test_failures_retries_and_resumed_streams_are_seen(play: Any, collector: Collector) -> None:
    async def scene() -> None:
        async with cluster(1, 2, otlp_config={"otlp_traces_endpoint": collector.url}) as c:
            c.gen[0].mode = c.gen[1].mode = "die"
            c.gen[1].die_after = 6
            answer = await c.post("/v1/completions", {"prompt": "hello", "max_tokens": 8, "stream": True}, ASKED)
            c.gen[0].mode = c.gen[1].mode = "ok"
            assert answer.done
            c.ctx[0].mode = "400"
            assert (await c.post("/v1/completions", {"prompt": "hello", "max_tokens": 3})).status == 400
            c.ctx[0].mode = "500"
            assert (await c.post("/v1/completions", {"prompt": "hello", "max_tokens": 3})).status == 500

    play(scene)
    resumed = [span for span in collector.spans if span.name == "resume"]
    assert resumed and {span.trace_id.hex() for span in resumed} == {TRACE}
    assert any(span.status.code == 2 and "generation" in span.name for span in collector.spans)
    ends = {facts(s).get("http.response.status_code"): s.status.code for s in collector.named("POST /v1/completions")}
    assert ends[400] == 0 and ends[500] == 2


def test_a_collector_that_is_away_costs_no_request(play: Any) -> None:
    async def scene() -> None:
        async with cluster(otlp_config={"otlp_traces_endpoint": "http://127.0.0.1:9/v1/traces"}) as c:
            for _ in range(20):
                assert (await c.complete("hello", 2)).json["choices"][0]["text"] == expected("hello", 2)

    play(scene)


def test_without_tracing_the_library_is_not_imported_and_without_the_library_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    look = "import sys, disagg_launch.router.serve; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout == "[]\n"
    hide = "import sys; sys.modules['opentelemetry'] = None; import disagg_launch.router.tracing"
    said = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False).stderr
    assert "pip install 'disagg-launch[otel]'" in said
    with pytest.raises(BadInput, match="OTLP over HTTP"):
        parse({"otlp_config": {"otlp_traces_endpoint": "collector:4317"}})
