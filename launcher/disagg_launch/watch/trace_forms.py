"""A start-up trace as a table, as JSON, and in the Trace Event format that Perfetto and chrome://tracing read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Optional

from disagg_launch.place.numbers import counted
from disagg_launch.watch.trace import HEALTHY, Instance, Trace

SHOWN = 20
ROUTER = "router"


def lines(made: Trace, every: bool = False) -> Iterator[str]:
    """Two tables: phases, and instances in the order in which they were healthy; of many only the last, unless `every` one is wanted."""
    yield f"start-up of {made.name} (plan {made.digest}), in seconds since the gateway began"
    yield ""
    rows = [[phase.name, _s(phase.at_s), _s(phase.took_s), phase.last] for phase in made.phases]
    yield from _table(["phase", "reached", "took", "last to come"], rows, left=(0, 3))
    if made.instances:
        yield ""
        yield from _instances(made, every)
    if made.overhead_s is not None:
        yield ""
        yield f"the launcher's own share: {made.overhead_s:.2f} s, which is to the open router, less {made.slowest}'s own time"


def _instances(made: Trace, every: bool) -> Iterator[str]:
    ordered = sorted(made.instances, key=lambda one: (one.healthy_s is None, one.healthy_s or 0.0))
    shown = ordered if every else ordered[-SHOWN:]
    stages = list(dict.fromkeys(span.stage for one in ordered for span in one.spans if span.life == 1))
    stages = stages[: stages.index(HEALTHY) + 1] if HEALTHY in stages else stages  # what follows is the same for all
    yield from _table(["instance", *stages, "own time"], [_row(one, stages) for one in shown], left=(0,))
    if len(shown) < len(ordered):
        yield f"and {counted(len(ordered) - len(shown), 'instance')} before them (--all shows all)"


def _row(one: Instance, stages: Sequence[str]) -> list[str]:
    first = {span.stage: span.from_s for span in reversed(one.spans) if span.life == 1}
    return [one.name, *(_s(first.get(stage)) for stage in stages), _s(one.own_s)]


def _s(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in [head, *rows]:
        yield "  ".join(c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths))).rstrip()


def as_json(made: Trace) -> dict[str, Any]:
    """The whole trace; seconds since the gateway began, which was at `began_at` (unix time)."""
    return {
        "name": made.name,
        "digest": made.digest,
        "began_at": made.began_at,
        "ended_s": made.ended_s,
        "overhead_s": made.overhead_s,
        "slowest": made.slowest,
        "phases": [phase._asdict() for phase in made.phases],
        "instances": [
            {
                **one._asdict(),
                "spans": [span._asdict() for span in one.spans],
                "ranks": [{"rank": up.rank.rank, "at_s": up.at_s, "host": up.host, "pid": up.pid} for up in one.ranks],
            }
            for one in made.instances
        ],
        "marks": [{"at_s": at_s, "instance": who, "what": what} for at_s, who, what in made.marks],
    }


def chrome(made: Trace, now_s: float) -> dict[str, Any]:
    """The whole life in the Trace Event format: a process for the deployment and one for each instance, a thread for each rank.

    Time stamps are microseconds since the first thing that is known; what still goes on ends at `now_s`.
    """
    until_s = now_s if made.ended_s is None else made.ended_s
    zero = min((phase.at_s for phase in made.phases), default=0.0)

    def us(at_s: float) -> int:
        return round((at_s - zero) * 1e6)

    def span(name: str, kind: str, pid: int, tid: int, from_s: float, to_s: float, **args: Any) -> dict[str, Any]:
        long = max(0, us(to_s) - us(from_s))
        return {"name": name, "cat": kind, "ph": "X", "pid": pid, "tid": tid, "ts": us(from_s), "dur": long, "args": args}

    out = [*_named(1, made.name, 0, {0: "phases"})]
    out += [span(phase.name, "phase", 1, 0, phase.at_s - phase.took_s, phase.at_s, last=phase.last) for phase in made.phases]
    pids = {"": 1, ROUTER: 1}
    for number, one in enumerate(made.instances):
        pid = pids[one.name] = number + 2
        threads = {0: "stages", **{up.rank.rank + 1: _thread(up.rank, up.host) for up in one.ranks}}
        out += _named(pid, f"{one.name} ({one.role})", pid, threads)
        ends = [until_s if stage.to_s is None else stage.to_s for stage in one.spans]
        out += [span(stage.stage, "stage", pid, 0, stage.from_s, end_s, life=stage.life) for stage, end_s in zip(one.spans, ends)]
        began_s = one.spans[0].from_s if one.spans else 0.0
        out += [span("to its role", "rank", pid, up.rank.rank + 1, min(began_s, up.at_s), up.at_s, process=up.pid) for up in one.ranks]
    mark = {"cat": "event", "ph": "i", "tid": 0, "s": "p", "args": {}}
    out += [{**mark, "name": what, "pid": pids.get(who, 1), "ts": us(at_s)} for at_s, who, what in made.marks]
    return {"traceEvents": out, "displayTimeUnit": "ms", "otherData": {"plan": made.digest, "began_at": made.began_at}}


def _thread(rank: Any, host: str) -> str:
    return f"rank {rank.rank} (tp{rank.tp_rank} pp{rank.pp_rank}) on {host}"


def _named(pid: int, name: str, order: int, threads: dict[int, str]) -> Iterator[dict[str, Any]]:
    yield {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"name": "process_sort_index", "ph": "M", "pid": pid, "tid": 0, "args": {"sort_index": order}}
    for tid, text in threads.items():
        yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": text}}
