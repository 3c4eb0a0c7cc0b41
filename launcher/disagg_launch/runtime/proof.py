"""Proof before ready: tokens through the router over pairs of a context and a generation instance, so that a KV path that does not work is
found before users do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Dict, List, Optional, Set, Tuple

from disagg_launch import plan as plans
from disagg_launch.errors import NotReady
from disagg_launch.runtime import probe
from disagg_launch.runtime.pairing import MANY, Pair, Pairing, blamed
from disagg_launch.runtime.readiness import FAILED, READY, WAIT, Verdict
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

AT_ONCE = 8
TRIES = 2
PARTNERS = 4
"""An instance that comes back is tried with so many others at most."""
ASKED = {"prompt": "Say yes.", "max_tokens": 2, "temperature": 0}


class Proof:
    """Sends tokens. Each result is an event; what fails is tried once more.

    Before ready each pair is tried as soon as both its instances are up and the router listens (`more`), so that little is left to be done
    when the last instance comes. What fails then, while others load, is tried again when all are up.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._pairing: Optional[Pairing] = None
        self._came: Set[str] = set()
        self._under_way = 0
        self._tried: Dict[Pair, int] = {}
        self._failed: Dict[Pair, str] = {}

    # ---- before ready -----------------------------------------------------------------------------------------------------

    def more(self) -> None:
        """Begin to try what can be tried now. To be called whenever somebody has come up."""
        door = self._fleet.router.seen
        if self._gateway.state != "starting" or self._gateway.launch.router.proves != "pairs" or door is None or not door.listening:
            return
        pairing = self._pairing = self._pairing or self._planned()
        for one in self._fleet.records.values():
            if one.name not in self._came and one.is_up and not one.missing:
                self._came.add(one.name)
                pairing.came(one)
        while self._under_way < AT_ONCE:
            pair = pairing.take() or self._again()
            if pair is None:
                return
            self._under_way += 1
            self._tried[pair] = self._tried.get(pair, 0) + 1
            self._gateway.spawn(self._try(pair))

    def _planned(self) -> Pairing:
        count = {role: sum(one.role == role for one in self._gateway.scaling.awake()) for role in plans.PREFIX}
        return Pairing(count[plans.CONTEXT], count[plans.GENERATION], self._gateway.launch.readiness.prove)

    def _again(self) -> Optional[Pair]:
        """A pair that failed and may be tried once more, now that nobody is still loading."""
        if self._pairing is None or not self._pairing.complete:
            return None
        return next((pair for pair in self._failed if self._tried[pair] < TRIES), None)

    async def _try(self, pair: Pair) -> None:
        why = self._told(pair, *await self.trial(pair))
        self._under_way -= 1
        self._failed.pop(pair, None)
        if why:
            self._failed[pair] = why
            if self._tried[pair] < TRIES:
                self._gateway.board.note(f"{pair[0].name} -> {pair[1].name}: no token passed ({why}); once more when all are up")
        else:
            for one in pair:
                one.proved = True
        self.more()
        self._gateway.wake.set()

    def verdict(self) -> Verdict:
        """READY when every pair that has to be proved is, FAILED when one cannot be, else WAIT."""
        self.more()
        if self._gateway.launch.router.proves != "pairs":
            return Verdict(READY)
        if self._pairing is None or not self._pairing.complete or self._under_way or self._again() is not None:
            return Verdict(WAIT)
        failed = list(self._failed)
        return self._disproved(list(self._tried), failed) if failed else Verdict(READY)

    def _disproved(self, tried: List[Pair], failed: List[Pair]) -> Verdict:
        told = "".join(f"\n  {c.name} -> {g.name}: {self._failed[c, g]}" for c, g in failed)
        head = f"{len(failed)} of {len(tried)} pairs of a context and a generation instance did not pass a token on (readiness.prove):"
        return Verdict(FAILED, head + told, NotReady.exit_code, blamed(tried, failed).name)

    async def of_router(self) -> Verdict:
        """The same for a router of which only the public side is known: it chooses whom it asks, so that all are answered is all."""
        pairing = self._planned()
        for one in self._gateway.scaling.awake():
            pairing.came(one)
        chosen = list(iter(pairing.take, None))[: max(MANY, len(self._fleet.records))]
        problems = await asyncio.gather(*(self._request(pair) for pair in chosen))
        self._failed = {pair: why for pair, why in zip(chosen, problems) if why}
        if self._failed:
            return self._disproved(chosen, list(self._failed))
        for one in {one.name: one for pair in chosen for one in pair}.values():
            one.proved = True
        return Verdict(READY)

    # ---- after ready ------------------------------------------------------------------------------------------------------

    async def of_one(self, one: Record) -> str:
        """Why nobody passes tokens on with an instance that has come back; "" when somebody does, or nobody is there to try."""
        if not self.by_pairs or one.role not in plans.PREFIX:
            return ""
        partners = await self._partners(one)
        problems = await asyncio.gather(*(self.try_pair(pair) for pair in partners))
        one.proved = any(not why for why in problems)
        return "" if one.proved or not partners else f"no token passed with {partners[0][0].name} -> {partners[0][1].name}: {problems[0]}"

    @property
    def by_pairs(self) -> bool:
        """Whether a single instance can be and is to be proved."""
        return self._gateway.heeded and self._gateway.launch.readiness.prove != "none"

    async def _partners(self, one: Record) -> List[Pair]:
        other = plans.GENERATION if one.role == plans.CONTEXT else plans.CONTEXT
        if self._gateway.joined is not None:
            them = await self._gateway.joined.serving(other)
        else:
            every = [each for each in self._fleet.records.values() if each.role == other and each.started]
            them = [each for each in every if each.routed and each.is_up and not each.ended]
        return [(one, each) if one.role == plans.CONTEXT else (each, one) for each in them[:PARTNERS]]

    # ---- one pair ---------------------------------------------------------------------------------------------------------

    async def try_pair(self, pair: Pair) -> str:
        """Why a pair does not pass tokens on; "" if it does, at once or the second time."""
        for _ in range(TRIES):
            hop, why = await self.trial(pair)
            if not why:
                break
        return self._told(pair, hop, why)

    def _told(self, pair: Pair, hop: str, why: str) -> str:
        context, generation = pair
        text = f"{hop} hop: {why}" if hop else why
        told = self._gateway.events.tell
        told("proof", text or "a token passed", generation.name, ok=not why, context=context.name, generation=generation.name)
        return text

    async def trial(self, pair: Pair, patience_s: float = 0.0) -> Tuple[str, str]:
        """(hop, why) of one try of one pair through the router's admin side; ("", "") if it went well."""
        gateway, router = self._gateway, self._fleet.router
        patience_s = patience_s or gateway.launch.readiness.prove_s
        urls = {one.role: f"{one.host}:{one.port}" for one in pair}
        async with self._gate:
            message = {**urls, "timeout_s": patience_s}
            seen, told = await probe.ask(router.host, self._fleet.told_at, "/admin/probe", message, gateway.router_token, patience_s + 5)
        if not isinstance(told, dict) or "ok" not in told:
            return "", f"the router did not try it: {seen.detail}"
        return ("", "") if told["ok"] else (str(told.get("hop", "")), str(told.get("why", "")))

    async def _request(self, pair: Pair) -> str:
        """Why a request for the model of the pair's generation instance was not answered by the router; "" if it was."""
        router, patience_s = self._fleet.router, self._gateway.launch.readiness.prove_s
        async with self._gate:
            model = await probe.model(pair[1].host, pair[1].port, self._gateway.launch.readiness.probe_s)
            seen, told = await probe.ask(router.host, router.port, probe.COMPLETIONS, {**ASKED, "model": model}, "", patience_s)
        why = "" if seen.healthy else f"a request through the router: {seen.detail}" + (f" ({str(told)[:300]})" if told else "")
        self._gateway.events.tell("proof", why or "a request was answered", ok=not why, context="", generation="")
        return why
