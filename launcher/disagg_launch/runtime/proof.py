"""Proof before ready: tokens through the router over pairs of a context and a generation instance, so that a KV path that does not work is
found before users do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, List, Sequence, Tuple

from disagg_launch import plan as plans
from disagg_launch.errors import NotReady
from disagg_launch.runtime import probe
from disagg_launch.runtime.readiness import FAILED, READY, Verdict
from disagg_launch.runtime.record import Record

if TYPE_CHECKING:
    from disagg_launch.runtime.gateway import Gateway

MANY = 16
AT_ONCE = 8
TRIES = 2
PARTNERS = 4
"""An instance that comes back is tried with so many others at most."""
ASKED = {"prompt": "Say yes.", "max_tokens": 2, "temperature": 0}

Pair = Tuple[Record, Record]


def pairs(contexts: Sequence[Record], generations: Sequence[Record], how: str) -> List[Pair]:
    """The pairs to be proved: "pairs" all, "cover" everybody at least once, "auto" all if they are not many, "none" none."""
    every = len(contexts) * len(generations)
    if how == "none" or not every:
        return []
    if how == "pairs" or (how == "auto" and every <= MANY):
        return [(c, g) for c in contexts for g in generations]
    return [(contexts[n % len(contexts)], generations[n % len(generations)]) for n in range(max(len(contexts), len(generations)))]


def blamed(tried: Sequence[Pair], failed: Sequence[Pair]) -> Record:
    """The instance most of whose pairs failed; between equals a generation instance, which is the one that notices."""

    def share(one: Record) -> float:
        return sum(one in pair for pair in failed) / sum(one in pair for pair in tried)

    return max([*(g for _, g in failed), *(c for c, _ in failed)], key=share)


class Proof:
    """Sends tokens. Each result is an event; what fails is tried once more."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._fleet = gateway, gateway.fleet
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def of_all(self) -> Verdict:
        """READY when every pair that has to be proved is, else the first that is not."""
        gateway, ready = self._gateway, self._gateway.launch.readiness
        router = gateway.launch.router
        chosen = pairs(self._of(plans.CONTEXT), self._of(plans.GENERATION), ready.prove) if router.proves else []
        if router.proves == "requests":
            problems = await asyncio.gather(*(self._request(pair) for pair in chosen[: max(MANY, len(self._fleet.records))]))
        else:
            problems = await asyncio.gather(*(self.try_pair(pair) for pair in chosen))
        failed = [(pair, why) for pair, why in zip(chosen, problems) if why]
        if not failed:
            for one in {one.name: one for pair in chosen for one in pair}.values():
                one.proved = True
            return Verdict(READY)
        told = "".join(f"\n  {c.name} -> {g.name}: {why}" for (c, g), why in failed)
        first = blamed(chosen, [pair for pair, _ in failed])
        head = f"{len(failed)} of {len(chosen)} pairs of a context and a generation instance did not pass a token on (readiness.prove):"
        return Verdict(FAILED, head + told, NotReady.exit_code, first.name)

    async def of_one(self, one: Record) -> str:
        """Why nobody passes tokens on with an instance that has come back; "" when somebody does, or nobody is there to try."""
        ready = self._gateway.launch.readiness
        if self._gateway.launch.router.proves != "pairs" or ready.prove == "none" or one.role not in plans.PREFIX:
            return ""
        partners = self._partners(one)
        problems = await asyncio.gather(*(self.try_pair(pair) for pair in partners))
        one.proved = any(not why for why in problems)
        return "" if one.proved or not partners else f"no token passed with {partners[0][0].name} -> {partners[0][1].name}: {problems[0]}"

    def _partners(self, one: Record) -> List[Pair]:
        other = plans.GENERATION if one.role == plans.CONTEXT else plans.CONTEXT
        them = [each for each in self._of(other) if each.routed and each.is_up and not each.ended][:PARTNERS]
        return [(one, each) if one.role == plans.CONTEXT else (each, one) for each in them]

    def _of(self, role: str) -> List[Record]:
        return [one for one in self._fleet.records.values() if one.role == role and one.started]

    async def try_pair(self, pair: Pair, tries: int = TRIES, patience_s: float = 0.0) -> str:
        """Why a pair does not pass tokens on; "" if it does."""
        context, generation = pair
        hop, why = await self.trial(pair, patience_s)
        if why and tries > 1:
            return await self.try_pair(pair, tries - 1, patience_s)
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
        """As `try_pair`, for a router of which only the public side is known: it chooses whom it asks, so that somebody answers is all."""
        router, patience_s = self._fleet.router, self._gateway.launch.readiness.prove_s
        async with self._gate:
            _, models = await probe.ask(pair[1].host, pair[1].port, "/v1/models", None, "", self._gateway.launch.readiness.probe_s)
            try:
                model = models["data"][0]["id"]
            except (TypeError, KeyError, IndexError):
                model = ""
            seen, told = await probe.ask(router.host, router.port, "/v1/completions", {**ASKED, "model": model}, "", patience_s)
        why = "" if seen.healthy else f"a request through the router: {seen.detail}" + (f" ({str(told)[:300]})" if told else "")
        self._gateway.events.tell("proof", why or "a request was answered", ok=not why, context="", generation="")
        return why
