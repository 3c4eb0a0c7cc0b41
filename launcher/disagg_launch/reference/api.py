"""OpenAI-shaped requests and answers, with the `disaggregated_params` that context and generation workers exchange.

Source: the OpenAI completions and chat endpoints; TensorRT-LLM's worker protocol for the disaggregated part.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from disagg_launch.reference import bpe
from disagg_launch.reference.models import Model
from disagg_launch.reference.request import Request
from disagg_launch.reference.sampling import Sampling
from disagg_launch.reference.ticket import Ticket

Json = dict[str, Any]


class BadRequest(Exception):
    """The request is not acceptable; answered with 400."""


class DisaggregatedParams(BaseModel):
    """What the router carries from the context worker's answer to the generation worker's request."""

    request_type: Literal["context_only", "generation_only"]
    first_gen_tokens: Optional[list[int]] = None
    ctx_request_id: Optional[int] = None
    encoded_opaque_state: Optional[str] = None
    draft_tokens: Optional[list[int]] = None
    disagg_request_id: Optional[int] = None


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    include_usage: bool = False


class Body(BaseModel):
    """What both endpoints take. Fields in `_UNSUPPORTED` are refused unless they ask for nothing; unknown fields are ignored."""

    model_config = ConfigDict(extra="allow")

    model: Optional[str] = None
    stream: bool = False
    stream_options: Optional[StreamOptions] = None
    max_tokens: Optional[int] = Field(None, ge=1)
    max_completion_tokens: Optional[int] = Field(None, ge=1)
    temperature: Optional[float] = Field(None, ge=0, le=100)
    top_p: Optional[float] = Field(None, gt=0, le=1)
    top_k: Optional[int] = None
    seed: Optional[int] = Field(None, ge=-(2**63), lt=2**63)
    stop: Union[str, list[str], None] = None
    stop_token_ids: Optional[list[int]] = None
    ignore_eos: bool = False
    n: Optional[int] = None
    disaggregated_params: Optional[DisaggregatedParams] = None


class CompletionBody(Body):
    """Body of /v1/completions."""

    prompt: Union[str, list[int], list[str], list[list[int]]]


class ChatBody(Body):
    """Body of /v1/chat/completions. `prompt_token_ids` stands for the messages, already written down and tokenised."""

    messages: list[Json] = Field(min_length=1)
    prompt_token_ids: Optional[list[int]] = None


# field -> the values that ask for nothing
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "prompt_logprobs": (0,),
}


@dataclass(frozen=True)
class Ask:
    """A parsed request: one prompt per choice, and how to answer."""

    chat: bool
    prompts: list[tuple[int, ...]]
    body: Body
    sampling: Sampling
    stops: tuple[str, ...]
    identity: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def context_only(self) -> bool:
        """True if only the first token is wanted, and the KV cache kept."""
        params = self.body.disaggregated_params
        return params is not None and params.request_type == "context_only"


def parse(raw: bytes, chat: bool, model: Model) -> Ask:
    """The request in a body. BadRequest with one sentence for each thing that is wrong."""
    try:
        body: Body = ChatBody.model_validate_json(raw) if chat else CompletionBody.model_validate_json(raw)
    except ValidationError as wrong:
        raise BadRequest("; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in wrong.errors())) from None
    for name, nothing in UNSUPPORTED.items():
        value = getattr(body, name, None)
        if value is not None and value not in nothing:
            raise BadRequest(f"{name} {value!r} is not supported by the reference engine")
    prompts = [_chat_prompt(body, model)] if isinstance(body, ChatBody) else _prompts(body, model)
    if body.disaggregated_params and len(prompts) != 1:
        raise BadRequest(f"{len(prompts)} prompts found, a disaggregated request has exactly one")
    for prompt in prompts:
        if any(not 0 <= token < model.shape.vocab for token in prompt):
            raise BadRequest(f"a token id is outside of the vocabulary, 0 to {model.shape.vocab - 1}")
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Ask(chat, prompts, body, _sampling(body), tuple(stop for stop in stops if stop))


def request(ask: Ask, prompt: tuple[int, ...], model: Model, context: int) -> Request:
    """What the scheduler is asked for one prompt; `emit` is still to be filled in. `context` is the longest sequence, in tokens."""
    body, params = ask.body, ask.body.disaggregated_params
    room = context - len(prompt)
    limit = body.max_completion_tokens or body.max_tokens or (room if ask.chat else 16)
    stop_tokens = frozenset(body.stop_token_ids or ()) | (frozenset() if body.ignore_eos else model.tokenizer.stops)
    ticket: Optional[Ticket] = None
    first: tuple[int, ...] = ()
    if params and params.request_type == "generation_only":
        ticket, first = _handed_over(params)
        if any(not 0 <= token < model.shape.vocab for token in first):
            raise BadRequest(f"first_gen_tokens {list(first)}: outside of the vocabulary")
    return Request(
        prompt=prompt,
        limit=max(1, min(limit, room)),
        sampling=ask.sampling,
        emit=lambda _: None,
        stops=ask.stops,
        stop_tokens=stop_tokens,
        context_only=ask.context_only,
        ticket=ticket,
        first=first,
    )


def _handed_over(params: DisaggregatedParams) -> tuple[Ticket, tuple[int, ...]]:
    if not params.first_gen_tokens or params.encoded_opaque_state is None or params.ctx_request_id is None:
        raise BadRequest("generation_only needs first_gen_tokens, ctx_request_id and encoded_opaque_state from the context worker's answer")
    try:
        ticket = Ticket.decode(params.encoded_opaque_state)
    except ValueError as wrong:
        raise BadRequest(str(wrong)) from None
    if ticket.request != params.ctx_request_id:
        raise BadRequest("ctx_request_id and encoded_opaque_state belong to different requests")
    return ticket, tuple(params.first_gen_tokens)


def _sampling(body: Body) -> Sampling:
    temperature = 1.0 if body.temperature is None else body.temperature
    seed = secrets.randbits(63) if body.seed is None else body.seed % 2**64
    return Sampling(temperature, body.top_p or 1.0, max(0, body.top_k or 0), seed)


def _prompts(body: Body, model: Model) -> list[tuple[int, ...]]:
    assert isinstance(body, CompletionBody)
    prompt = body.prompt
    if isinstance(prompt, str):
        return [tuple(bpe.encode_with_specials(model.tokenizer, prompt))]
    if prompt and isinstance(prompt[0], int):
        return [tuple(token for token in prompt if isinstance(token, int))]
    if not prompt:
        raise BadRequest("prompt is an empty list")
    return [tuple(bpe.encode_with_specials(model.tokenizer, p)) if isinstance(p, str) else _ids(p) for p in prompt]


def _ids(prompt: Union[int, list[int]]) -> tuple[int, ...]:
    assert isinstance(prompt, list)
    return tuple(prompt)


def _chat_prompt(body: ChatBody, model: Model) -> tuple[int, ...]:
    if body.prompt_token_ids:
        return tuple(body.prompt_token_ids)
    turns = [(str(message.get("role") or "user"), _content(message)) for message in body.messages]
    return tuple(write_down(turns, model))


def write_down(turns: Sequence[tuple[str, str]], model: Model) -> list[int]:
    """A conversation as token ids, up to where the assistant speaks. ChatML where the model has its tokens, plain lines where it has none.

    Control tokens written in a message stay plain text: a user cannot end his own turn.
    """
    tokenizer = model.tokenizer
    start, end = tokenizer.specials.get("<|im_start|>"), tokenizer.specials.get("<|im_end|>")
    if start is None or end is None:
        return tokenizer.encode("".join(f"{content}\n" for _, content in turns))
    if turns[0][0] != "system" and model.system:
        turns = [("system", model.system), *turns]
    ids: list[int] = []
    for role, content in turns:
        ids += [start, *tokenizer.encode(f"{role}\n{content}"), end, *tokenizer.encode("\n")]
    return [*ids, start, *tokenizer.encode("assistant\n")]


def _content(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, list):
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise BadRequest("a message has a part that is not text")
        return "".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        raise BadRequest("messages: content must be a string or a list of text parts")
    return content or ""
