"""What processes have used so far, read from /proc: bytes read, memory, processor time, how much of their files of weights. Linux."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
import threading
import time
from typing import Collection, Dict, Iterable, List, Mapping, Set, Tuple

from disagg_launch.runtime.progress import Figures

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WEIGHTS = re.compile(r"\.(?:safetensors|bin|gguf|pt|pth|engine|npz|f32)$")
LEAST_WEIGHTS_BYTES = 1 << 20
SMI = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
SMI_S = 20.0
SMI_PERIOD_S, SMI_SHARE = 2.0, 0.05
"""It is asked no more often than that, and so seldom that it is at work for no more than this share of the time."""


class Pulse:
    """Figures of one group of processes, call after call. It remembers files of weights that have been read and closed."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self._done: Dict[str, int] = {}
        self._sizes: Dict[str, int] = {}

    def measure(self, pids: Collection[int]) -> Figures:
        """What they have used by now; a process that has gone counts for nothing."""
        read = memory = 0
        cpu_s = 0.0
        held: Set[str] = set()
        for pid in pids:
            with contextlib.suppress(OSError, ValueError, IndexError):
                read += _read_bytes(pid)
            with contextlib.suppress(OSError, ValueError, IndexError):
                memory += _resident_bytes(pid)
                cpu_s += _cpu_s(pid)
            with contextlib.suppress(OSError, ValueError):
                held |= self._look_at_weights(pid)
        for path in set(self._done) - held:
            self._done[path] = self._sizes[path]  # opened before and closed since
        return Figures(read, memory, self._gpus.bytes(pids), cpu_s, sum(self._done.values()), sum(self._sizes.values()))

    def _look_at_weights(self, pid: int) -> Set[str]:
        """The files of weights that it holds now. Those beside them count as still to be read."""
        held = dict(_positions(pid))
        for path, done in held.items():
            if path not in self._sizes:
                self._sizes.update(_siblings(path))
            if path in self._sizes:
                self._done[path] = max(self._done.get(path, 0), min(done, self._sizes[path]))
        return held.keys() & self._sizes.keys()


def _read_bytes(pid: int) -> int:
    """Bytes it has read by system calls or had to fetch from storage for its mappings, whichever is more."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        values = dict(line.split(": ") for line in file)
    return max(int(values["rchar"]), int(values["read_bytes"]))


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _positions(pid: int) -> List[Tuple[str, int]]:
    """(path, bytes read so far) of each file of weights that it has open or mapped: how far it is, or what of the mapping is in memory."""
    found: List[Tuple[str, int]] = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{name}")
            if WEIGHTS.search(path):
                with open(f"/proc/{pid}/fdinfo/{name}", encoding="ascii") as file:
                    found.append((path, int(file.readline().split()[1])))
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        mapped = {path for path in (line.split(None, 5)[5].strip() for line in file if line.count("/")) if WEIGHTS.search(path)}
    return found + (_resident(pid, mapped) if mapped else [])


def _resident(pid: int, paths: Set[str]) -> List[Tuple[str, int]]:
    """(path, bytes in memory) of mapped files. The long form of the list of mappings is read only when there are some."""
    found: Dict[str, int] = {}
    path = ""
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        for line in file:
            head = line.split(None, 5)
            if not head[0].endswith(":"):
                path = head[5].strip() if len(head) == 6 else ""
            elif head[0] == "Rss:" and path in paths:
                found[path] = found.get(path, 0) + int(head[1]) * 1024
    return list(found.items())


def _siblings(path: str) -> Dict[str, int]:
    """Sizes of the files of weights of that kind in its folder; nothing if it is too small to be weights."""
    folder, kind = os.path.dirname(path), os.path.splitext(path)[1]
    sizes = {one.path: one.stat().st_size for one in os.scandir(folder) if one.name.endswith(kind) and one.is_file()}
    return sizes if sizes.get(path, 0) >= LEAST_WEIGHTS_BYTES else {}


class Gpus:
    """GPU memory by process, as nvidia-smi tells; asked beside everything else, for it can take seconds."""

    def __init__(self) -> None:
        self._used: Mapping[int, int] = {}
        self._next_s = -math.inf
        self._there = shutil.which(SMI[0]) is not None

    def bytes(self, pids: Iterable[int]) -> int:
        """What these held when it was last asked; 0 without nvidia-smi, or where it sees other process numbers than we."""
        now_s = time.monotonic()
        if self._there and now_s >= self._next_s:
            self._next_s = math.inf  # until it has answered
            threading.Thread(target=self._ask, name="nvidia-smi", daemon=True).start()
        return sum(self._used.get(pid, 0) for pid in pids)

    def _ask(self) -> None:
        began_s = time.monotonic()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=SMI_S, check=False)
            self._used = gpu_bytes(done.stdout)
        now_s = time.monotonic()
        self._next_s = now_s + max(SMI_PERIOD_S, (now_s - began_s) / SMI_SHARE)


def gpu_bytes(said: str) -> Dict[int, int]:
    """Bytes by process of nvidia-smi's lines "pid, MiB"; a process on several GPUs has several."""
    used: Dict[int, int] = {}
    for line in said.splitlines():
        words = [word.strip() for word in line.split(",")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            used[int(words[0])] = used.get(int(words[0]), 0) + (int(words[1]) << 20)
    return used
