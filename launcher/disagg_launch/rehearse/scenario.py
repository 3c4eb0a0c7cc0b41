"""What goes wrong in a rehearsal, and when: a small YAML file, or one of those that come along."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import Field, ValidationError

from disagg_launch.errors import BadInput
from disagg_launch.plan import Plan
from disagg_launch.spec.complaint import BadTopology
from disagg_launch.spec.explain import explain
from disagg_launch.spec.fields import Closed, Count, Many, Positive, Seconds
from disagg_launch.spec.source import parse as source_of

Do = Literal["slow", "lie", "die", "hang", "lose_port", "drop_kv", "refuse", "delay"]


class Fault(Closed):
    """One thing that goes wrong with every instance that `where` means."""

    where: str
    """An instance's name, or a pattern: ctx0, gen*."""
    do: Do
    """slow: loads `seconds` longer. lie: says it is healthy and refuses every request. die: with `code` or `signal`. hang: stopped, alive.
    lose_port: lives on without its port. drop_kv: KV cannot be fetched from it. refuse: answers `status`. delay: `seconds` for each."""
    at: Literal["starting", "loading", "listening", "healthy"] = "healthy"
    """In which stage of its life."""
    after_s: Seconds = 0.0
    """How long after that stage began."""
    rank: Count = 0
    """Which rank of the instance."""
    lives: Count = 1
    """In how many of its lives, from the first on; 0: in all. A restart is a new life."""
    seconds: Seconds = 5.0
    """For slow and delay."""
    code: Annotated[int, Field(ge=1, le=255)] = 3
    """For die."""
    signal: Optional[Literal["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGBUS"]] = None
    """For die: by a signal instead."""
    says: str = "RuntimeError: the rehearsal told me to die"
    """For die: the last line of its log."""
    status: Annotated[int, Field(ge=400, le=599)] = 500
    """For refuse."""


class Expect(Closed):
    """What the launcher should make of it; something else is a failed rehearsal."""

    verdict: Literal["ready", "failed"] = "ready"
    """ready: serves until it is stopped. failed: ends by itself with a verdict."""
    instance: Optional[str] = None
    """Whom the verdict blames."""
    restarted: Many[str] = ()
    """Who comes back after a restart."""
    failed_requests: Count = 0
    """How many requests may end in an explicit error. A wrong, truncated or hanging answer is never right."""


class Scenario(Closed):
    """A rehearsal."""

    about: str = ""
    """What it shows, in a sentence."""
    load_s: Annotated[tuple[float, float], Field(strict=False)] = (0.5, 2.0)
    """Between how many seconds instances load; each has its own, the same in every rehearsal."""
    token_s: Seconds = 0.005
    """Seconds for a token."""
    serve_s: Positive = 5.0
    """How long it goes on once it is ready."""
    requests_per_s: Seconds = 10.0
    """How many are sent in that time."""
    faults: Many[Fault] = ()
    """What goes wrong."""
    expect: Expect = Expect()
    """What the launcher should make of it."""

    def script(self, plan: Plan) -> dict[str, Any]:
        """What the workers read. BadInput if a fault is meant for nobody."""
        wrong = [
            f"faults[{at}].where: {fault.where!r} rank {fault.rank} is nobody in this plan"
            for at, fault in enumerate(self.faults)
            if not any(fnmatchcase(one.name, fault.where) and fault.rank < one.size for one in plan.instances)
        ]
        if wrong:
            raise BadInput("\n".join([*wrong, f"needed: instances of the plan, {plan.instances[0].name} to {plan.instances[-1].name}"]))
        dice = random.Random(plan.digest)  # noqa: S311  (the same for the same plan, not a secret)
        instances = {
            one.name: {
                "load_s": round(dice.uniform(*self.load_s), 3),
                "faults": [f.model_dump(exclude={"where"}) for f in self.faults if fnmatchcase(one.name, f.where)],
            }
            for one in plan.instances
        }
        return {"token_s": self.token_s, "instances": instances}


def shipped() -> dict[str, Scenario]:
    """The scenarios that come along, by name."""
    files = sorted(resources.files(__package__).joinpath("scenarios").iterdir(), key=lambda one: one.name)
    return {one.name.removesuffix(".yaml"): parse(one.read_text(encoding="utf-8"), one.name) for one in files if one.name.endswith(".yaml")}


def named(name: str) -> Scenario:
    """The scenario in a file, or the one of that name that comes along. BadInput."""
    if name in (known := shipped()):
        return known[name]
    try:
        return parse(Path(name).read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as wrong:
        raise BadInput(f"{name}: {wrong}; needed: a scenario file, or one of {', '.join(known)}") from None


def parse(text: str, file: str) -> Scenario:
    """The scenario in a text. BadInput with every complaint, each with its place."""
    source, wrong = source_of(text, file)
    if not wrong:
        try:
            return Scenario.model_validate(source.values)
        except ValidationError as error:
            wrong = explain(error, source, Scenario)
    raise BadTopology(wrong)
