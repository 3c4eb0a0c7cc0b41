"""OpenTelemetry spans, sent as OTLP over HTTP: one for a request and one for each call to a worker, in the client's trace.

A flow of its own, so that without tracing nothing is spent on it and the library (extra `otel`) need not be there. Workers get the
call's span as their parent. The library's environment variables work: OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_*, ...
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from typing import Any, Iterator

from disagg_launch.errors import BadInput
from disagg_launch.router.config import Config
from disagg_launch.router.exchange import Exchange, Refused, Sink
from disagg_launch.router.flow import Flow
from disagg_launch.router.workers import Worker

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise BadInput(f"otlp_config: {missing.name} is not installed; pip install 'disagg-launch[otel]'") from None

SERVICE = "disagg-launch-router"
LAST_WORDS_S = 2.0  # the library itself would wait for half a minute
_W3C = TraceContextTextMapPropagator()
_PREFIXES = (b"traceparent:", b"tracestate:")


class TracedFlow(Flow):
    """A flow that tells a collector of what it does."""

    def __init__(self, config: Config, *more: Any) -> None:
        super().__init__(config, *more)
        named = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", SERVICE)})
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        # a queue of its own in a thread of its own: a collector that is slow or away costs spans, never requests
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.otlp_traces_endpoint)))
        self._tracer = self._provider.get_tracer("disagg_launch.router")

    async def serve(self, exchange: Exchange, sink: Sink) -> None:
        """As Flow's, in a span that goes on with the client's trace; the rest of a broken stream is a span within."""
        resumed = trace.get_current_span().get_span_context().is_valid
        parent = None if resumed else _W3C.extract(_lines(exchange.extra))
        kind = SpanKind.INTERNAL if resumed else SpanKind.SERVER
        name = "resume" if resumed else f"POST {exchange.path.decode()}"
        with self._span(name, kind, parent) as span:
            try:
                await super().serve(exchange, sink)
            finally:
                span.set_attributes(_facts(exchange))

    async def stop(self) -> None:
        """Send what has not been sent, if the collector takes it soon enough."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        late = self._loop.time() + LAST_WORDS_S
        while last.is_alive() and self._loop.time() < late:
            await asyncio.sleep(0.01)

    async def _call(self, worker: Worker, exchange: Exchange, body: bytes) -> bytes:
        with self._hop(worker, exchange):
            return await super()._call(worker, exchange, body)

    async def _stream(self, worker: Worker, exchange: Exchange, body: bytes, sink: Sink) -> None:
        with self._hop(worker, exchange):
            await super()._stream(worker, exchange, body, sink)

    @contextmanager
    def _hop(self, worker: Worker, exchange: Exchange) -> Iterator[None]:
        """One call to a worker, which is told of it in the header lines that the call takes before it first waits."""
        with self._span(worker.role, SpanKind.CLIENT) as span:
            host, _, port = worker.url.rpartition(":")
            span.set_attributes({"server.address": host, "server.port": int(port)})
            told: dict[str, str] = {}
            _W3C.inject(told)
            kept = [line for line in exchange.extra.splitlines(True) if not line.startswith(_PREFIXES)]
            exchange.extra = b"".join([*kept, *(f"{name}: {value}\r\n".encode("latin-1") for name, value in told.items())])
            yield

    @contextmanager
    def _span(self, name: str, kind: SpanKind, parent: Any = None) -> Iterator[Span]:
        """A span; a 4xx is the client's own fault and no error of it, and neither is a client that leaves."""
        with self._tracer.start_as_current_span(name, parent, kind, record_exception=False, set_status_on_exception=False) as span:
            try:
                yield span
            except Refused as no:
                span.set_attribute("http.response.status_code", no.status)
                if no.status >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                raise
            except Exception as wrong:
                span.set_status(Status(StatusCode.ERROR, str(wrong)))
                raise


def _lines(extra: bytes) -> dict[str, str]:
    """Header lines as names and values."""
    return {name: value for name, _, value in (line.partition(": ") for line in extra.decode("latin-1").splitlines())}


def _facts(exchange: Exchange) -> dict[str, Any]:
    facts: dict[str, Any] = {"request.id": exchange.id, "disagg.request_id": exchange.number, "disagg.stream": exchange.stream}
    facts |= {"disagg.ctx": exchange.ctx, "disagg.gen": exchange.gen, "disagg.retries": exchange.retries}
    facts["disagg.queued_s"] = exchange.queued_s
    if exchange.first:
        facts["disagg.ttft_s"] = exchange.first - exchange.began
    return facts
