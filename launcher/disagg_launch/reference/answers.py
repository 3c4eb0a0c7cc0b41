"""The shapes of answers: whole, as chunks of a stream, and errors. Pure functions from deltas to JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from disagg_launch.reference.api import Ask
from disagg_launch.reference.request import Delta

Json = dict[str, Any]


class Choice:
    """One answer as it grows: its text, tokens, and the delta that ended it."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.told = 0  # tokens whose ids have been sent
        self.last = Delta()

    def add(self, delta: Delta) -> None:
        """Take a delta in."""
        self.text += delta.text
        if delta.token is not None:
            self.tokens.append(delta.token)
        self.last = delta

    def news(self) -> list[int]:
        """The ids not told yet, unless some of their text is still held back: told ids and sent text always say the same."""
        if self.last.held:
            return []
        new, self.told = self.tokens[self.told :], len(self.tokens)
        return new


def whole(ask: Ask, model: str, choices: Sequence[Choice]) -> Json:
    """The answer in one piece. A context-only one has `prompt_token_ids`, and `disaggregated_params` if it goes on elsewhere."""
    answer = {**_head(ask, model, ""), "choices": [_choice(ask, index, choice) for index, choice in enumerate(choices)]}
    answer["usage"] = usage(ask, choices)
    if ask.context_only:
        answer["prompt_token_ids"] = list(ask.prompts[0])
    return answer


def chunk(ask: Ask, model: str, index: int, delta: Delta, opening: bool = False, ids: Optional[list[int]] = None) -> Json:
    """One chunk of a stream. The first one of a chat choice is `opening` and says the role. `ids` go along if they are wanted."""
    body: Json = {"index": index}
    if ask.chat:
        body["delta"] = ({"role": "assistant"} if opening else {}) | {"content": delta.text}
    else:
        body["text"] = delta.text
    body |= {"logprobs": None, "finish_reason": delta.finish or None}
    if ids is not None:
        body["token_ids"] = ids
    return {**_head(ask, model, ".chunk"), "choices": [body]}


def usage_chunk(ask: Ask, model: str, choices: Sequence[Choice]) -> Json:
    """The last chunk of a stream that asked for usage."""
    return {**_head(ask, model, ".chunk"), "choices": [], "usage": usage(ask, choices)}


def usage(ask: Ask, choices: Sequence[Choice]) -> Json:
    """Token counts over all choices."""
    prompt, answer = sum(map(len, ask.prompts)), sum(len(choice.tokens) for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def error(message: str, status: int) -> Json:
    """The body of a failed request."""
    own = {404: "NotFoundError", 503: "ServiceUnavailableError"}
    kind = own.get(status) or ("BadRequestError" if status < 500 else "InternalServerError")
    return {"object": "error", "message": message, "type": kind, "param": None, "code": status}


def _head(ask: Ask, model: str, chunked: str) -> Json:
    kind, letters = ("chat.completion" + chunked, "chatcmpl") if ask.chat else ("text_completion", "cmpl")
    return {"id": f"{letters}-{ask.identity}", "object": kind, "created": ask.created, "model": model}


def _choice(ask: Ask, index: int, choice: Choice) -> Json:
    body: Json = {"index": index}
    if ask.chat:
        body["message"] = {"role": "assistant", "content": choice.text}
    else:
        body["text"] = choice.text
    body |= {"logprobs": None, "finish_reason": choice.last.finish}
    if ask.context_only:
        body["disaggregated_params"] = _params(ask, choice)
    return body


def _params(ask: Ask, choice: Choice) -> Optional[Json]:
    """What the generation worker needs; None if the answer is complete."""
    ticket, asked = choice.last.ticket, ask.body.disaggregated_params
    if ticket is None or asked is None:
        return None
    params: Json = {
        "request_type": "context_only",
        "first_gen_tokens": choice.tokens,
        "ctx_request_id": ticket.request,
        "encoded_opaque_state": ticket.encode(),
        "draft_tokens": None,
    }
    if asked.disagg_request_id is not None:
        params["disagg_request_id"] = asked.disagg_request_id
    return params
