"""From tokens to the text of an answer: whole characters only, and nothing past a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from disagg_launch.reference.bpe import Tokenizer


class Text:
    """The growing text of one answer. `stopped` is True once a stop string was found; the text ends before it."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._piece = tokenizer.piece
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode = self._decoder.decode
        self._stops = tuple(stops)
        self._held = ""  # could be the beginning of a stop string

    @property
    def held(self) -> bool:
        """Whether some of the text of the tokens so far is still held back."""
        return bool(self._held) or self._decoder.getstate()[0] != b""

    def add(self, token: int) -> str:
        """What the token adds to the text that may be shown now; often "" in the middle of a character or of a possible stop string."""
        return self._release(self._decode(self._piece(token)))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        rest = self._release(self._decode(b"", True))
        held, self._held = self._held, ""
        return rest + ("" if self.stopped else held)

    def _release(self, new: str) -> str:
        if self.stopped or not self._stops:
            return "" if self.stopped else new
        text = self._held + new
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
