"""vLLM's protocol with a pulling KV connector (NIXL): the first hop makes one token and says in `kv_transfer_params` where its KV lies.

Token ids come back with `return_token_ids` (vLLM 0.10.2 and later; others ignore it). Its chat endpoint takes no ids, so that only
streams of the completions endpoint can be gone on with elsewhere.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

from disagg_launch.router.exchange import Exchange, Prefill, refusal
from disagg_launch.router.splice import dumps, loads
from disagg_launch.router.workers import Worker

CONCURRENT = False
STREAM_EXTRA = b""
_ASK = {"do_remote_decode": True, "do_remote_prefill": False}
_UNKNOWN = dict.fromkeys(("remote_engine_id", "remote_block_ids", "remote_host", "remote_port"))


def offers(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nothing: the answer of the first hop says it all."""
    return {}


def no_prefill() -> Prefill:
    """A generation worker that finds no parameters does the prompt itself."""
    return Prefill({}, None, None)


def early(exchange: Exchange, number: int, worker: Worker) -> Prefill:
    """Refused: the second hop cannot be asked before the first has answered."""
    raise refusal(500, "schedule_style generation_first is not possible with vLLM workers: set context_first")


def context_body(exchange: Exchange, number: int, early: Optional[Prefill]) -> bytes:
    """The client's request, cut down to one token."""
    body = {**exchange.body, "stream": False, "max_tokens": 1, "min_tokens": 1, "kv_transfer_params": {**_ASK, **_UNKNOWN}}
    body.pop("stream_options", None)
    if "max_completion_tokens" in body:
        body["max_completion_tokens"] = 1
    if exchange.stream and not exchange.chat:
        body["return_token_ids"] = True
    return dumps(body)


def read_context(exchange: Exchange, answer: bytes) -> Prefill:
    """Where the KV is. ValueError if the answer does not say."""
    said = loads(answer, "kv_transfer_params")
    params = said.get("kv_transfer_params")
    if not isinstance(params, dict):
        raise ValueError("a context answer needs kv_transfer_params: is a KV connector configured?")
    choices = said.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    return Prefill(said, params, None if exchange.chat else first.get("prompt_token_ids"))


def generation_body(exchange: Exchange, prefill: Prefill, number: int) -> bytes:
    """The client's request with the KV's whereabouts."""
    body = dict(exchange.body)
    if prefill.params is not None:
        body["kv_transfer_params"] = prefill.params
    if exchange.stream and not exchange.chat:
        body["return_token_ids"] = True
    return dumps(body)
