"""After ready: an instance that lives but does not answer is found, told to the router, and ended, so that the policy applies to it.

Rarely and cheaply: once a round the router says how many requests each instance has finished and how many events it has streamed; who has
done something has answered. Only the others are asked for two tokens, in pairs. Who does not answer is suspect and gets no more requests;
it is given up when it has been silent for `restart.hang_s`. Anything that it answers in that time, also to somebody else, clears it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Dict, List, Set, Tuple

from disagg_launch import plan as plans
from disagg_launch.runtime import probe
from disagg_launch.runtime.pairing import Pair, pairs
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

ROUNDS = 4
"""So many rounds in hang_s."""
LEAST_S = 0.5
ANSWER_S = 5.0
BUSY = "status 429"


class Vigil:
    """Rounds, as long as the deployment is up."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._finished: Dict[str, int] = {}
        self._silent_since: Dict[Tuple[str, int], float] = {}

    async def run(self) -> None:
        """Until the end; at once back where nothing can be asked."""
        hang_s = self._gateway.launch.policy.hang_s
        if not hang_s or self._gateway.launch.router.proves != "pairs":
            return
        round_s = max(LEAST_S, hang_s / ROUNDS)
        while not self._fleet.stopping:
            await asyncio.sleep(round_s)
            if not self._fleet.router.ended:
                await self._round(round_s)

    async def _round(self, round_s: float) -> None:
        ones = [one for one in self._fleet.records.values() if one.routed and not one.ended and one.role in plans.PREFIX]
        answered = await self._busy(ones)
        asked = [one for one in ones if one.name not in answered]
        if asked:
            answered |= await self._asked(asked, ones, round_s)
            answered |= await self._busy(ones)  # whoever has finished something while we asked was only slow for us
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

    async def _busy(self, ones: List[Record]) -> Set[str]:
        """Those that have finished or streamed something since the last look."""
        router = self._fleet.router
        _, rows = await probe.ask(router.host, self._fleet.told_at, "/admin/workers", None, self._gateway.router_token, ANSWER_S)
        rows = rows if isinstance(rows, list) else []
        finished = {(row.get("host"), row.get("port")): row.get("completed", 0) + row.get("streamed", 0) for row in rows}
        found = set()
        for one in ones:
            count = finished.get((one.host, one.port), 0)
            if count > self._finished.get(one.name, count):
                found.add(one.name)
            self._finished[one.name] = count
        return found

    async def _asked(self, asked: List[Record], ones: List[Record], patience_s: float) -> Set[str]:
        """Those of whom two tokens came, those that said that they are busy, and those whose partner alone is to blame."""
        sides = {role: [one for one in asked if one.role == role] for role in plans.PREFIX}
        sound = {role: [one for one in ones if one.role == role and not one.suspect] for role in plans.PREFIX}
        context, generation = (sides[role] or sound[role][:1] for role in (plans.CONTEXT, plans.GENERATION))
        chosen = pairs(context, generation, "cover")
        results = await asyncio.gather(*(self._gateway.proof.trial(pair, patience_s) for pair in chosen))
        found: Set[str] = set()
        for pair, (hop, why) in zip(chosen, results):
            if not why or not hop or why.startswith(BUSY):
                found |= {one.name for one in pair}  # without a hop it is the router that did not answer
            else:
                found |= await self._innocent(pair, hop, sound[plans.CONTEXT], patience_s)
        return found

    async def _innocent(self, pair: Pair, hop: str, sound: List[Record], patience_s: float) -> Set[str]:
        """Who of a pair that stopped at `hop` is not to blame: the generation instance answers with another context instance, or not."""
        context, generation = pair
        others = [one for one in sound if one is not context][:1]
        if others:
            _, why = await self._gateway.proof.trial((others[0], generation), patience_s)
            return {generation.name} if not why else {context.name} if hop == plans.GENERATION else set()
        return {generation.name} if hop == plans.CONTEXT else {context.name}

    async def _suspected(self, one: Record) -> None:
        one.suspect = True
        self._gateway.board.note(f"{one.name} does not answer: it is suspect, and gets no more requests")
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
