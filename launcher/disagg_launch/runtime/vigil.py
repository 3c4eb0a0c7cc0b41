"""After ready: an instance that lives but does not answer is found, told to the router, and ended, so that the policy applies to it.

Rarely and cheaply, in rounds. Who does not answer is suspect and gets no more requests, if the router takes our word for it; it is given
up when it has been silent for `restart.hang_s`. Anything that it answers in that time, also to somebody else, clears it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Dict, List, Tuple, Union

from disagg_launch.runtime.asking import InPairs, OneByOne
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

ROUNDS = 4
"""So many rounds in hang_s."""
LEAST_S = 0.5


class Vigil:
    """Rounds, as long as the deployment is up."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        ours = gateway.launch.router.proves == "pairs"
        self._asking: Union[InPairs, OneByOne] = InPairs(gateway) if ours else OneByOne(gateway)
        self._silent_since: Dict[Tuple[str, int], float] = {}

    async def run(self) -> None:
        """Until the end; at once back where it is not wished."""
        hang_s = self._gateway.launch.policy.hang_s
        round_s = max(LEAST_S, hang_s / ROUNDS)
        while hang_s and not self._fleet.stopping:
            await asyncio.sleep(round_s)
            ones = [one for one in self._fleet.records.values() if one.routed and not one.ended and self._asking.can_ask(one)]
            if ones:
                await self._round(ones, round_s)

    async def _round(self, ones: List[Record], round_s: float) -> None:
        answered = await self._asking.answered(ones, round_s)
        now_s = self._fleet.now_s()
        for one in ones:
            life = (one.name, one.starts)
            if one.ended or not one.routed:
                self._silent_since.pop(life, None)
            elif one.name in answered:
                if self._silent_since.pop(life, None) is not None:
                    await self._cleared(one)
            elif life not in self._silent_since:
                self._silent_since[life] = now_s - round_s
                await self._suspected(one)
            elif now_s - self._silent_since[life] >= self._gateway.launch.policy.hang_s:
                self._silent_since.pop(life)
                await self._given_up(one)

    async def _suspected(self, one: Record) -> None:
        one.suspect = True
        cut_off = ", and gets no more requests" if self._gateway.heeded else ""
        self._gateway.board.note(f"{one.name} does not answer: it is suspect{cut_off}")
        self._gateway.events.tell("suspect", "it does not answer", one.name, ok=False, life=one.starts)
        await self._gateway.repair.tell_router(one, "drain")

    async def _cleared(self, one: Record) -> None:
        one.suspect = False
        self._gateway.board.note(f"{one.name} answers again")
        self._gateway.events.tell("suspect", "it answers again", one.name, ok=True, life=one.starts)
        await self._gateway.repair.tell_router(one, "undrain")

    async def _given_up(self, one: Record) -> None:
        hang_s = self._gateway.launch.policy.hang_s
        await self._gateway.vitals.stacks([one.name])
        one.end(f"it lives, and has not answered for {hang_s:g} s (restart.hang_s)", self._fleet.now_s())
        self._gateway.wake.set()
