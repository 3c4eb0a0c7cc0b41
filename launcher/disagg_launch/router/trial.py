"""POST /admin/probe {"context": url, "generation": url, "timeout_s": 30}: two tokens through a pair of workers, whatever state they are in.

Past policies, queue, retries and states, so that a pair can be tried before anybody is sent there. The answer is
{"ok": true, "seconds": ...}, or {"ok": false, "hop": "context" or "generation", "why": ...}; `hop` is where it stopped.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.router.config import is_url
from disagg_launch.router.exchange import Exchange, Refused, WorkerFailed, refusal
from disagg_launch.router.fleet import Fleet
from disagg_launch.router.flow import Flow
from disagg_launch.router.policies import Ask
from disagg_launch.router.splice import dumps
from disagg_launch.router.upstream import Pool, UpstreamError
from disagg_launch.router.workers import State, Worker

PATIENCE_S = 30.0
PROMPT = "Say yes."
# the first token is the context worker's, the second can only be made from the KV that was handed over
ASKED = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, "ignore_eos": True}


class Trial:
    """Tries pairs of workers."""

    def __init__(self, fleet: Fleet, flow: Flow) -> None:
        self._fleet, self._flow = fleet, flow
        self._loop = asyncio.get_running_loop()

    async def answer(self, body: bytes) -> bytes:
        """The answer to one request. Refused with 400 for a body that makes no sense."""
        try:
            message: Any = orjson.loads(body)
            urls = {role: message[role] for role in (CONTEXT, GENERATION)}
            patience_s = float(message.get("timeout_s", PATIENCE_S))
        except (ValueError, KeyError, TypeError, AttributeError):
            urls, patience_s = {}, 0.0
        if not urls or not all(is_url(url) for url in urls.values()):
            raise refusal(400, 'needed: {"context": "host:port", "generation": "host:port"}, and "timeout_s"')
        pair = {role: self._fleet.table.by_url.get((role, url)) or self._stranger(role, url) for role, url in urls.items()}
        # whoever asks knows sooner than our own probes who is up; what a context worker offers has to be known to ask both at once
        await asyncio.gather(*(self._fleet.look(worker) for worker in pair.values() if worker.state is not State.READY))
        try:
            return dumps(await self._try(pair, patience_s))
        finally:
            for role, worker in pair.items():
                if (role, worker.url) not in self._fleet.table.by_url:
                    worker.pool.abort("tried")

    def _stranger(self, role: str, url: str) -> Worker:
        return Worker(url, role, Pool(url, self._fleet.config.front_door.connect_timeout_s))

    async def _try(self, pair: dict[str, Worker], patience_s: float) -> dict[str, Any]:
        began = self._loop.time()
        exchange = Exchange(
            id="trial",
            path=b"/v1/completions",
            chat=False,
            stream=False,
            body=dict(ASKED),
            ask=Ask(0, 1, "", ()),
            extra=b"x-request-id: trial\r\n",
            client="trial",
            began=began,
            only=pair,
        )
        try:
            await asyncio.wait_for(self._go(exchange, pair), patience_s)
        except WorkerFailed as failure:
            said = f": {failure.answer[1][:500].decode('utf-8', 'replace')}" if failure.answer else ""
            return {"ok": False, "hop": failure.worker.role, "why": failure.cause + said}
        except Refused as no:
            return {"ok": False, "hop": _hop(exchange), "why": no.body[:500].decode("utf-8", "replace")}
        except asyncio.TimeoutError:
            return {"ok": False, "hop": _hop(exchange), "why": f"no answer within {patience_s:g} s"}
        if not exchange.gen:
            return {"ok": False, "hop": CONTEXT, "why": "the context worker finished the request by itself"}
        return {"ok": True, "seconds": round(self._loop.time() - began, 4)}

    async def _go(self, exchange: Exchange, pair: dict[str, Worker]) -> None:
        exchange.body["model"] = await self._model(pair[GENERATION])
        await self._flow.through(exchange, _Nowhere())

    async def _model(self, worker: Worker) -> str:
        """The name that the worker answers to; WorkerFailed if it answers nobody."""
        try:
            status, body = await worker.pool.call(b"GET", b"/v1/models", b"", b"", self._fleet.config.front_door.health_timeout_s)
            return str(orjson.loads(body)["data"][0]["id"]) if status == 200 else self._fleet.config.model or ""
        except UpstreamError as error:
            raise WorkerFailed(worker, error.cause) from error
        except (ValueError, KeyError, TypeError, IndexError):
            return self._fleet.config.model or ""


def _hop(exchange: Exchange) -> str:
    """Where a trial stopped. It begins by asking the generation worker for the model's name, and has a number from then on."""
    return GENERATION if exchange.gen or not exchange.number else CONTEXT


class _Nowhere:
    """Where the answer of a trial goes."""

    started = False

    async def whole(self, status: int, content_type: bytes, body: bytes) -> None:
        """It is there: that is all."""

    def piece(self, data: bytes) -> None:
        """No trial is streamed."""

    async def end(self) -> None:
        """No trial is streamed."""
