"""Whether an instance that is not ready yet gets on, from what it says and what its processes use. Pure: time is an argument.

Getting on is: a line of a form that it has not said before (numbers do not make a line new), a further percentage or step of a phase that
we know, more bytes read, more memory, more GPU memory. Saying the same for ever is not. Processor time alone is half of it: a compiler is
busy and silent for minutes, but so is a rank that spins in a collective operation which another never joins. The judge has more patience
with such a one, not patience without end.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, NamedTuple, Optional, Set, Tuple, Union

from disagg_launch.runtime.phases import WEIGHTS, Phase, phase_of

Source = Union[int, str]
"""A global rank, or the name of a host for what a companion measured there of all ranks of the instance."""

ENOUGH_BYTES = 4 << 20
"""Less is what a loop of polling or logging uses."""
BUSY_SHARE, WINDOW_S = 0.1, 1.0
"""So much of one processor, over at least so long, is being busy; threads that poll use less."""
FORMS = 4000
"""So many forms of lines are remembered; what comes then is no news."""
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,}\b|\d+")


class Figures(NamedTuple):
    """What some processes have used: bytes read, bytes of memory and of GPU memory they hold, processor seconds.

    `weights_done` of `weights_bytes` of the files of weights that they have open or mapped have been read; 0 of 0 where there are none.
    """

    read_bytes: int = 0
    memory_bytes: int = 0
    gpu_bytes: int = 0
    cpu_s: float = 0.0
    weights_done: int = 0
    weights_bytes: int = 0

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> Figures:
        """What a companion sent. KeyError, TypeError or ValueError if it is something else."""
        read, memory, gpu, done, whole = (int(raw[name]) for name in cls._fields if name != "cpu_s")
        return cls(read, memory, gpu, float(raw["cpu_s"]), done, whole)


class Progress:
    """One life of one instance. `moved_s` and `busy_s`: when it last got on, and when it last used the processor."""

    def __init__(self) -> None:
        self.moved_s = self.busy_s = 0.0
        self.began = False
        self.phases: Dict[Source, Phase] = {}
        self.heard: Set[Source] = set()
        self._known: Set[object] = set()
        self._marks: Dict[Source, Figures] = {}
        self._used: Dict[Source, Tuple[float, float]] = {}
        self._told: Set[Source] = set()

    def moved(self, now_s: float) -> None:
        """It got on. Its clock runs from the first time on."""
        self.moved_s, self.busy_s, self.began = now_s, now_s, True

    def said(self, source: Source, text: str, now_s: float) -> None:
        """One line."""
        self.heard.add(source)
        phase = phase_of(text)
        if phase is not None:
            self.phases.pop(source, None)  # so that the last of the phases is what was spoken of last
            self.phases[source] = phase
            self._told.add(source)
        news = (source, phase) if phase is not None else _NUMBERS.sub("0", text).strip()
        if news and news not in self._known and len(self._known) < FORMS:
            self._known.add(news)
            self.moved(now_s)

    def measured(self, source: Source, now: Figures, now_s: float) -> None:
        """What its processes have used by now. Memory that was given back and is taken again is nothing new."""
        mark = self._marks.setdefault(source, now)
        if any(n - m >= ENOUGH_BYTES for m, n in zip(mark[:3], now[:3])):
            self.moved(now_s)
            self._marks[source] = Figures(*map(max, mark[:3], now[:3]))
        since_s, before_s = self._used.setdefault(source, (now_s, now.cpu_s))
        if now_s - since_s >= WINDOW_S:
            self._used[source] = now_s, now.cpu_s  # less than before means that one of them has ended
            if now.cpu_s - before_s >= BUSY_SHARE * (now_s - since_s):
                self.busy_s = now_s
        if now.weights_bytes and source not in self._told:
            # the log of an engine that tells its percentage knows better
            percent = min(100, 100 * now.weights_done // now.weights_bytes)
            before = self.phases.get(source)
            self.phases[source] = Phase(WEIGHTS, max(percent, before.percent or 0) if before else percent)

    @property
    def phase(self) -> Optional[Phase]:
        """How far the instance is: the slowest of its ranks in the phase that was spoken of last; None before there is one."""
        if not self.phases:
            return None
        last = list(self.phases.values())[-1].name
        return min((one for one in self.phases.values() if one.name == last), key=lambda one: one.percent or 0)
