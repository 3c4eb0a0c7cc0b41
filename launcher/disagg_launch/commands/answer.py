"""One prompt to an OpenAI-compatible server and its answer, with how fast it came; by TLS too."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from disagg_launch.errors import BadInput, NotReady, WorkerDied

if TYPE_CHECKING:
    import requests

CONNECT_S = 5.0
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True)
class Answer:
    """One prompt's answer. `ttft_s` is None when it was not streamed; `tokens` is the server's count."""

    prompt: str
    text: str
    tokens: int
    ttft_s: Optional[float]
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first per second of streaming; of the whole answer when it was not streamed."""
        if self.ttft_s is None or self.tokens < 2:
            return self.tokens / self.total_s
        return (self.tokens - 1) / max(self.total_s - self.ttft_s, 1e-9)


def send(base: str, endpoint: str, prompt: str, options: dict[str, Any], named: str, trust: str, show: Any = None) -> Answer:
    """One prompt's answer. NotReady when nobody listens, BadInput when it is refused, WorkerDied when it breaks.

    `named`: the model's name in the topology file, for routers that do not say what they serve. `trust`: see `session`.
    """
    body = {"model": "", **options, **_prompt(endpoint, prompt)}
    if options["stream"]:
        body["stream_options"] = {"include_usage": True}
    with session(trust) as http, _in_words(base):
        body["model"] = _model(base, named, trust)
        began = time.perf_counter()
        response = http.post(base + PATHS[endpoint], json=body, stream=options["stream"], timeout=(CONNECT_S, None))
        if response.status_code != 200:
            raise _refused(response)
        if not options["stream"]:
            said = response.json()
            return Answer(prompt, _text(said["choices"][0]), _tokens(said), None, time.perf_counter() - began)
        return _collect(prompt, response, began, show)


def session(trust: str = "") -> requests.Session:
    """A session that knows https servers by the certificate in the file `trust` and nothing else, whatever they are called.

    Without a file it knows them by the authorities that the system trusts. BadInput if the file holds no certificate.
    """
    import requests
    from requests.adapters import HTTPAdapter

    made = requests.Session()
    if trust:
        mark = _fingerprint(trust)

        class Pinned(HTTPAdapter):
            def init_poolmanager(self, *args: Any, **given: Any) -> None:
                super().init_poolmanager(*args, **given, assert_fingerprint=mark)

            def send(self, request: Any, *args: Any, **given: Any) -> Any:
                # what is checked is the fingerprint: nobody has to have signed it, and no environment variable says otherwise
                return super().send(request, *args, **{**given, "verify": False})

        made.mount("https://", Pinned())
    return made


def _fingerprint(path: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        text = pathlib.Path(path).read_text(encoding="ascii", errors="replace")
        first = text[text.index(begin) : text.index(end) + len(end)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    except OSError as wrong:
        raise BadInput(f"{path}: {wrong.strerror}; the router's certificate is needed there") from None
    except ValueError:
        raise BadInput(f"{path}: found no certificate; the router's is needed there, in PEM form") from None


@contextlib.contextmanager
def _in_words(base: str) -> Iterator[None]:
    """What goes wrong between here and a router, as an error of the table."""
    import requests

    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as wrong:
        raise BadInput(f"{base}: no address of a router ({wrong}); needed: one like http://127.0.0.1:8000") from None
    except requests.exceptions.SSLError as wrong:
        text = f"{base}: who answers there is not shown to be the router ({wrong}); name its certificate with --trust, or ask a run folder"
        raise BadInput(text) from None
    except requests.ConnectionError as wrong:
        if base.startswith("http:") and any(words in str(wrong) for words in ("closed connection", "reset by peer")):
            raise NotReady(f"{base}: who listens there hung up; if it speaks TLS, the address begins with https://") from None
        raise NotReady(f"{base}: nobody listens there; is the deployment up? (disagg-launch status)") from None
    except requests.Timeout:
        raise NotReady(f"{base}: somebody listens there, and did not answer in {CONNECT_S:g} s; is it a router?") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise BadInput(f"{base}: whoever answers there does not speak as an OpenAI-compatible server; give the router's address") from None


def _collect(prompt: str, response: Any, began: float, show: Any) -> Answer:
    parts: list[str] = []
    ttft, tokens = None, 0
    for said in _events(response, parts):
        if "error" in said:
            raise WorkerDied(f"the answer broke off after {len(parts)} pieces: {said['error'].get('message')}")
        tokens = _tokens(said) or tokens
        for choice in said.get("choices", ()):
            text = _text(choice)
            if text and ttft is None:
                ttft = time.perf_counter() - began
            parts.append(text)
            if show:
                show(text)
    return Answer(prompt, "".join(parts), tokens or len(parts), ttft, time.perf_counter() - began)


def _events(response: Any, parts: list[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream. WorkerDied if the connection ends before it; `parts` are what came until then."""
    import requests

    try:
        for line in response.iter_lines(chunk_size=None):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line[6:])
    except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
        raise WorkerDied(f"the answer broke off after {len(parts)} pieces: the connection ended") from None


def _refused(response: Any) -> Exception:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500]
    kind = NotReady if response.status_code in (429, 502, 503) else BadInput
    return kind(f"the router answered {response.status_code}: {message}")


def _model(base: str, named: str, trust: str) -> str:
    """The id of the model that is served there; `named` where nobody can be asked, as at TensorRT-LLM's own router."""
    with session(trust) as http:  # of its own: what is measured begins with a new connection
        said = http.get(base + "/v1/models", timeout=CONNECT_S)
    if said.status_code == 404 and named:
        return named
    if said.status_code != 200:
        raise _refused(said)
    return str(said.json()["data"][0]["id"])


def _prompt(endpoint: str, prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]} if endpoint == "chat" else {"prompt": prompt}


def _text(choice: dict[str, Any]) -> str:
    said = choice.get("delta") or choice.get("message") or {}
    return choice.get("text") or said.get("content") or ""


def _tokens(said: dict[str, Any]) -> int:
    return int((said.get("usage") or {}).get("completion_tokens") or 0)
