"""A topology and a trace -> how its roles are simulated. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from disagg_launch.autoscale.simulate import Model, calm, capacity
from disagg_launch.autoscale.trace import ROLES, Look
from disagg_launch.errors import BadInput
from disagg_launch.plan import CONTEXT, GENERATION, PREFIX
from disagg_launch.render import target

if TYPE_CHECKING:
    from disagg_launch.spec import Spec

SLOTS = {CONTEXT: 1, GENERATION: 8}
"""Requests that an instance works on at once: a prefill fills a GPU by itself, decoding is done in batches (here, where no file says)."""
PER_ROLE = {"a number": re.compile(r"(ctx|gen)=(\d+(?:\.\d+)?)"), "a whole number": re.compile(r"(ctx|gen)=(\d+)")}


def models(spec: Spec, trace: Sequence[Look], slots: Mapping[str, float], busy_s: Mapping[str, float]) -> dict[str, Model]:
    """The roles that the topology has, in the order in which requests pass them. `slots` and `busy_s` by role are used instead of what
    file and trace say. BadInput without a policy, or when the trace does not tell how long a request takes.
    """
    if spec.autoscale is None:
        raise BadInput(f"{spec.source.file}: found no map `autoscale`; a policy is needed, such as autoscale: {{generation_servers: ...}}")
    made = {}
    for role in ROLES:
        section, scaled = spec.section(role), getattr(spec.autoscale, f"{role}_servers")
        if not section.num_instances:
            continue
        at_once = int(slots.get(role) or (_limit(spec) if role != CONTEXT else 0) or SLOTS[role])
        takes_s, first_s = _times(trace, role, at_once, busy_s.get(role, 0.0))
        made[role] = Model(section.num_instances, at_once, takes_s, first_s, target(scaled) if scaled else None)
    return made


def _times(trace: Sequence[Look], role: str, at_once: int, told_s: float) -> tuple[float, float]:
    """(for a request, until its first token), seconds. Where others waited all the time, the throughput tells the first best."""
    calm_s, first_s = calm(trace, role)
    most = capacity(trace, role)
    takes_s = told_s or (at_once / most if most else calm_s)
    if not takes_s:
        raise BadInput(f"the trace does not tell how long a {role} server works on a request: say it with --busy {PREFIX[role]}=SECONDS")
    return takes_s, min(first_s or takes_s, takes_s)


def _limit(spec: Spec) -> int:
    """How many requests a generation server is given or takes at once at most; 0 if the file does not say."""
    limits = (spec.router.options.get("max_in_flight_per_worker"), spec.generation_servers.engine_keys.get("max_batch_size"))
    return min((one for one in limits if isinstance(one, int) and one > 0), default=0)


def per_role(words: Sequence[str], option: str, kind: str = "a number") -> dict[str, float]:
    """Numbers by role, from words such as ctx=1.5; `kind` is a key of PER_ROLE. BadInput for a word that is none."""
    roles = {prefix: role for role, prefix in PREFIX.items()}
    found = [(word, PER_ROLE[kind].fullmatch(word)) for word in words]
    wrong = [word for word, match in found if not match or not float(match[2])]
    if wrong:
        raise BadInput(f"{option} {wrong[0]}: needed ctx=N or gen=N, where N is {kind} above 0")
    return {roles[match[1]]: float(match[2]) for _, match in found if match}
