"""Tokenizers: text to token ids, and a token id to the bytes it stands for. Byte-level BPE, character BPE, and plain bytes.

Standard library only. Source of the byte-level split: GPT-2's pattern, and llama.cpp's order for `pre = smollm`, in which every digit is
cut out before that pattern is applied ("\\n 3" is "\\n " and "3").
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional, Protocol

Pair = tuple[str, str]


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer. `specials` maps the text of a control token to its id; `stops` end an answer."""

    specials: Mapping[str, int]
    stops: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens are not looked for in it."""

    def piece(self, token: int) -> bytes:
        """The UTF-8 bytes of a token (maybe part of a character); b"" for a control token."""


def encode_with_specials(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text in which control tokens are written out, such as a chat template a user filled in by hand."""
    if not tokenizer.specials:
        return tokenizer.encode(text)
    names = sorted(tokenizer.specials, key=len, reverse=True)
    ids: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        ids += [tokenizer.specials[part]] if part in tokenizer.specials else tokenizer.encode(part)
    return ids


def merge(symbols: Sequence[str], ranks: Mapping[Pair, int]) -> list[str]:
    """The symbols after all merges, lowest rank first and leftmost among equals. n log n, so that a long word is no trap."""
    parts: list[Optional[str]] = list(symbols)
    after = list(range(1, len(parts) + 1))
    before = list(range(-1, len(parts) - 1))
    heap: list[tuple[int, int, int, Pair]] = []

    def offer(left: int, right: int) -> None:
        if left < 0 or right >= len(parts):
            return
        pair = (parts[left] or "", parts[right] or "")
        if pair in ranks:
            heapq.heappush(heap, (ranks[pair], left, right, pair))

    for i in range(len(parts) - 1):
        offer(i, i + 1)
    while heap:
        _, left, right, pair = heapq.heappop(heap)
        if (parts[left], parts[right]) != pair or after[left] != right:
            continue  # one of the two was merged with another neighbour since
        parts[left], parts[right] = pair[0] + pair[1], None
        after[left] = after[right]
        if after[right] < len(parts):
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [part for part in parts if part is not None]


def byte_letters() -> dict[int, str]:
    """Byte -> the printable character that stands for it in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        table.setdefault(byte, chr(256 + len(table) - len(printable)))
    return table


class _Shadow(dict[int, str]):
    """For str.translate: characters to an ASCII stand-in of their class, so that an ASCII pattern splits any text."""

    def __missing__(self, code: int) -> str:
        kind = unicodedata.category(chr(code))
        if kind[0] == "L":
            stand_in = "A"
        elif kind[0] == "N":
            stand_in = "0"
        elif kind in ("Zs", "Zl", "Zp") or code == 0x85:
            stand_in = "\t"
        else:
            stand_in = "!"
        self[code] = stand_in
        return stand_in


SHADOW = _Shadow({code: chr(code) for code in range(128)} | dict.fromkeys((0x1C, 0x1D, 0x1E, 0x1F), "!"))
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
DIGITS = re.compile(r"[0-9]|[^0-9]+")


def words(text: str) -> Iterable[str]:
    """The pieces of a text that merges do not cross, in order."""
    shadow = text.translate(SHADOW)
    for run in DIGITS.finditer(shadow):
        for word in WORDS.finditer(run.group()):
            yield text[run.start() + word.start() : run.start() + word.end()]


class ByteLevel:
    """Byte-level BPE over a GGUF vocabulary (`tokenizer.ggml.tokens` and `.merges`). Control tokens have type 3."""

    def __init__(self, tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], stops: frozenset[int]) -> None:
        letters = byte_letters()
        self.stops = stops
        self.specials: Mapping[str, int] = {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3}
        self._letters = letters
        self._ids = {text: i for i, text in enumerate(tokens)}
        self._ranks = {(left, right): rank for rank, (left, _, right) in enumerate(text.partition(" ") for text in merges)}
        back = {letter: byte for byte, letter in letters.items()}
        self._pieces = [b"" if text in self.specials else bytes(back[c] for c in text) for text in tokens]
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        ids: list[int] = []
        for word in words(text):
            ids += self._known.get(word) or self._word(word)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._pieces[token]

    def _word(self, word: str) -> list[int]:
        symbols = [self._letters[byte] for byte in word.encode("utf-8", "replace")]
        ids: list[int] = []
        for part in merge(symbols, self._ranks):
            # a part that is no token falls back to its bytes, and a byte that is no token is left out, as llama.cpp does
            ids += [self._ids[part]] if part in self._ids else [self._ids[c] for c in part if c in self._ids]
        if len(self._known) < 50_000 and len(word) < 32:
            self._known[word] = ids
        return ids


class CharLevel:
    """Character BPE as glassllm writes it: an alphabet and merges, blanks shown as U+2581, four control tokens first."""

    BLANK = "\u2581"
    CONTROL = ("<pad>", "<unk>", "<bos>", "<eos>")
    CHUNK = re.compile("\n|\u2581*[^\u2581\n]+|\u2581+")

    def __init__(self, alphabet: Sequence[str], merges: Sequence[Pair]) -> None:
        vocabulary = [*self.CONTROL, *alphabet, *(left + right for left, right in merges)]
        self.specials: Mapping[str, int] = {}
        self.stops = frozenset({self.CONTROL.index("<eos>")})
        self._ids = {text: i for i, text in enumerate(vocabulary)}
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._pieces = [b""] * len(self.CONTROL) + [text.replace(self.BLANK, " ").encode() for text in vocabulary[len(self.CONTROL) :]]
        self._pieces[1] = "\u2047".encode()  # the unknown character is shown, not hidden

    def encode(self, text: str) -> list[int]:
        """Token ids of the text in normal form C."""
        chunks = self.CHUNK.findall(unicodedata.normalize("NFC", text).replace(" ", self.BLANK))
        return [self._ids.get(part, 1) for chunk in chunks for part in merge(chunk, self._ranks)]

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._pieces[token]


class Bytes:
    """One token per byte, and one more that ends an answer: for models without a vocabulary."""

    SIZE = 257

    def __init__(self) -> None:
        self.specials: Mapping[str, int] = {}
        self.stops = frozenset({256})

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes."""
        return list(text.encode("utf-8", "replace"))

    def piece(self, token: int) -> bytes:
        """The byte itself."""
        return bytes([token]) if token < 256 else b""
