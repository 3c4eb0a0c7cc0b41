"""What a rehearsal showed, as values: the launcher's doings second by second, figures, and what was not as expected. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from disagg_launch.rehearse.scenario import Expect
from disagg_launch.rehearse.visitors import ERROR, HUNG, RIGHT, WRONG

FEW = 4
"""More than this many instances that do the same in the same second are told as a number."""
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What was seen of one rehearsal. Seconds and shares of one core; None where it did not come to that.

    `open_after_s` and `answer_after_s`: from when the last worker was healthy, by its own word, to the open front door, and to the first
    answer that a client had there; `answer_s`: how long such an answer took from then on. `rest_share`: the gateway's CPU time once ready.
    """

    instances: int
    ranks: int
    exit_code: int
    verdict: Mapping[str, Any]
    ready_s: Optional[float] = None
    open_after_s: Optional[float] = None
    answer_after_s: Optional[float] = None
    answer_s: Optional[float] = None
    start_cpu_s: Optional[float] = None
    rest_share: Optional[float] = None
    restarts: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    complaints: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def missed(expect: Expect, seen: Seen) -> list[str]:
    """What the launcher did not do as expected, a sentence each; empty after a good rehearsal."""
    wrong = []
    failed = seen.verdict.get("state") == "failed"
    if expect.verdict == "ready" and (failed or seen.ready_s is None):
        wrong.append(f"expected it to be ready and to serve; it {seen.verdict.get('state', 'ended')}: {seen.verdict.get('reason', '')}")
    if expect.verdict == "failed" and not failed:
        wrong.append("expected a failed verdict; it " + ("became ready" if seen.ready_s is not None else "ended without one"))
    if expect.instance and failed and seen.verdict.get("instance") != expect.instance:
        wrong.append(f"expected {expect.instance} to be blamed; found {seen.verdict.get('instance') or 'nobody'}")
    wrong += [f"expected {name} to be restarted; it was not" for name in expect.restarted if not seen.restarts.get(name)]
    counts = seen.requests
    if counts.get(ERROR, 0) > expect.failed_requests:
        wrong.append(f"expected at most {expect.failed_requests} requests to end in an error; found {counts[ERROR]}")
    wrong += [f"{counts[end]} requests ended {end}: each has to be right or an explicit error" for end in (WRONG, HUNG) if counts.get(end)]
    return wrong


def lines(events: Iterable[Event]) -> Iterator[str]:
    """The event log for a person: a line for each thing that happened, those that several instances did in one second put together."""
    told: dict[tuple[int, str], dict[str, None]] = {}
    for event in sorted(events, key=lambda event: float(event["t"])):
        if said := _said(event):
            told.setdefault((int(event["t"]), said), {})[event.get("instance", "")] = None
    for (second, said), who in told.items():
        names = [name for name in who if name]
        subject = f"{len(names)} instances: " if len(names) > FEW else f"{', '.join(names)}: " if names else ""
        yield f"{second:5} s  {subject}{said}"


def _said(event: Event) -> str:
    """What an event is called in the report; "" for what is too small for it."""
    if event.get("rank") is not None:
        return ""
    if event["event"] == "stage":
        return str(event["stage"]) if not event.get("percent") else ""
    return f"{event['event']} {event.get('text', '')}".strip()


def figures(seen: Seen) -> Iterator[str]:
    """The figures for a person."""
    yield f"{seen.instances} instances, {seen.ranks} ranks; the gateway ended with {seen.exit_code}"
    if seen.ready_s is not None:
        yield f"ready after {seen.ready_s:.1f} s"
    if seen.open_after_s is not None:
        yield f"front door open {1000 * seen.open_after_s:.0f} ms after the last worker was healthy"
    if seen.answer_after_s is not None and seen.answer_s is not None:
        yield f"a client's first answer {1000 * seen.answer_after_s:.0f} ms after it; the next ones took {1000 * seen.answer_s:.0f} ms each"
    if seen.start_cpu_s is not None:
        yield f"gateway: {seen.start_cpu_s:.2f} s of CPU until ready"
    if seen.rest_share is not None:
        yield f"gateway: {100 * seen.rest_share:.1f} % of a core while it served"
    if any(seen.restarts.values()):
        yield "restarts: " + ", ".join(f"{name} {count}" for name, count in seen.restarts.items() if count)
    if sum(seen.requests.values()):
        yield f"requests: {seen.requests[RIGHT]} right, " + ", ".join(f"{seen.requests[end]} {end}" for end in (ERROR, WRONG, HUNG))
    yield from seen.complaints
