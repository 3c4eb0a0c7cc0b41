"""TensorRT-LLM's worker protocol, which the reference engine speaks too: `disaggregated_params` in requests and answers."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from disagg_launch.router.exchange import Exchange, Prefill
from disagg_launch.router.splice import dumps, loads
from disagg_launch.router.workers import Worker

CONCURRENT = False
# ignored by workers that do not know it; a body field would be refused by those that are strict
STREAM_EXTRA = b"x-return-token-ids: 1\r\n"
_GOES_ON = ("length", "not_finished")


def offers(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a context worker's /server_info says of how its KV is reached."""
    params = info.get("disaggregated_params")
    return params if isinstance(params, dict) else {}


def no_prefill() -> Prefill:
    """TensorRT-LLM's parameters for a generation worker that takes whatever KV it has (its gen-only benchmark)."""
    return Prefill({}, {"first_gen_tokens": [7], "ctx_request_id": 1}, None)


def early(exchange: Exchange, number: int, worker: Worker) -> Prefill:
    """Generation first: both sides know the request by the router's number, and the generation worker where to ask."""
    params = {**worker.offers, "ctx_request_id": number, "schedule_style": "generation_first"}
    return Prefill({}, params, None)


def context_body(exchange: Exchange, number: int, early: Optional[Prefill]) -> bytes:
    """The client's request, not streamed, to be worked on for its prompt only."""
    params: dict[str, Any] = {"request_type": "context_only", "disagg_request_id": number}
    if early:
        params["schedule_style"] = "generation_first"
    return dumps({**exchange.body, "stream": False, "stream_options": None, "disaggregated_params": params})


def read_context(exchange: Exchange, answer: bytes) -> Prefill:
    """Where the KV is, and the prompt's token ids. ValueError if the answer lacks what the second hop needs."""
    said = loads(answer, "prompt_token_ids")
    choices = said.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError("a context answer needs exactly one choice")
    params = choices[0].pop("disaggregated_params", None)
    ids = said.pop("prompt_token_ids", None)
    if choices[0].get("finish_reason") not in _GOES_ON:
        return Prefill(said, None, None, finished=True)
    if not isinstance(params, dict) or params.get("ctx_request_id") is None:
        raise ValueError("a context answer needs choices[0].disaggregated_params.ctx_request_id")
    return Prefill(said, params, ids, number=params["ctx_request_id"])


def generation_body(exchange: Exchange, prefill: Prefill, number: int) -> bytes:
    """The client's request with the KV's whereabouts, and token ids in place of the prompt (chat: beside the messages)."""
    body: dict[str, Any] = dict(exchange.body)
    body["disaggregated_params"] = {**(prefill.params or {}), "request_type": "generation_only", "disagg_request_id": number}
    if prefill.ids is not None:
        body["prompt_token_ids" if exchange.chat else "prompt"] = prefill.ids
    return dumps(body)
