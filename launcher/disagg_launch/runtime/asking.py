"""Two ways to find out which instances answer: in pairs through our router, or each by itself where the front door is somebody else's.

Both say who has answered within a round; who has not is the vigil's business.
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

ANSWER_S = 5.0
BUSY = "status 429"


class InPairs:
    """Through our router, cheaply: it says how many requests each has finished and how many events it has streamed; who has done something
    has answered. Only the others are asked for two tokens, in pairs.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._finished: Dict[str, int] = {}

    def can_ask(self, one: Record) -> bool:
        """Whether it belongs to a pair."""
        return one.role in plans.PREFIX and not self._fleet.router.ended

    async def answered(self, ones: List[Record], round_s: float) -> Set[str]:
        """Who of these has answered since the last round."""
        answered = await self._busy(ones)
        asked = [one for one in ones if one.name not in answered]
        if asked:
            answered |= await self._asked(asked, ones, round_s)
            answered |= await self._busy(ones)  # whoever has finished something while we asked was only slow for us
        return answered

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


class OneByOne:
    """Past the front door: each worker whose engine allows it is asked for a token of its own.

    Nobody tells us here who is busy. So a question stays open from round to round, for as long as a silence may last, and keeps its place
    in the worker's queue; one whose queue is longer than that would still be taken for one that hangs.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: Dict[Tuple[str, int], asyncio.Future[bool]] = {}

    def can_ask(self, one: Record) -> bool:
        """Whether its engine makes a token for whoever asks."""
        return bool(self._path(one))

    def _path(self, one: Record) -> str:
        return next((w.answers_at for w in self._gateway.launch.workers if w.instance == one.name), "")

    async def answered(self, ones: List[Record], round_s: float) -> Set[str]:
        """Who of these answers within the round."""
        asked = {(one.name, one.starts): one for one in ones}
        for life in set(self._open) - set(asked):
            self._open.pop(life).cancel()
        for life, one in asked.items():
            if life not in self._open:
                self._open[life] = asyncio.ensure_future(self._token(one, self._path(one)))
        if self._open:
            await asyncio.wait(set(self._open.values()), timeout=round_s)
        done = {life: self._open.pop(life).result() for life in asked if self._open[life].done()}
        return {name for (name, _), well in done.items() if well}

    async def _token(self, one: Record, path: str) -> bool:
        """Whether it answers with a token, or says that it will not make one for us, which is an answer too."""
        patience_s = self._gateway.launch.policy.hang_s
        if path == probe.COMPLETIONS:
            model = await probe.model(one.host, one.port, patience_s)
            message = {"model": model, "prompt": "Say yes.", "max_tokens": 1, "temperature": 0}
            seen, _ = await probe.ask(one.host, one.port, path, message, "", patience_s)
        else:
            seen = await probe.probe(one.host, one.port, path, patience_s)
        return 200 <= seen.status < 500
