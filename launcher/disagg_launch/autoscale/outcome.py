"""What a simulation came to: sums by role, a line for each change, and everything as plain data. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from disagg_launch.autoscale.simulate import Model, Moment
from disagg_launch.plan import PREFIX
from disagg_launch.runtime.policy import mean, strain


def data(moments: Sequence[Moment], models: Mapping[str, Model]) -> dict[str, Any]:
    """`roles`: the model and sums of each; `moments`: all that was seen and wished."""
    rows = []
    for moment in moments:
        row: dict[str, Any] = {"at_s": round(next(iter(moment.values())).seen.at_s, 3)}
        for role, step in moment.items():
            seen = {name: round(value, 6) for name, value in step.seen._asdict().items() if name not in ("at_s", "span_s")}
            row[role] = {**seen, "wish": step.wish.instances if step.wish else None, "why": step.wish.why if step.wish else ""}
        rows.append(row)
    return {"roles": {role: {"model": asdict(models[role]), **sums(moments, role, models[role])} for role in models}, "moments": rows}


def sums(moments: Sequence[Moment], role: str, model: Model) -> dict[str, Any]:
    """Over the whole time: instance hours, those of as many as there may be, changes, waits, and the share of time inside the target."""
    seen = [moment[role].seen for moment in moments]
    hours = sum(one.instances * one.span_s for one in seen) / 3600
    most = max([model.target.maximum] if model.target else [one.instances for one in seen])
    inside = [one for one in seen if not model.target or strain(model.target, [one])[0] <= 1]
    return {
        "requests": round(sum(one.requests for one in seen)),
        "instance_hours": round(hours, 3),
        "instance_hours_at_most": round(most * sum(one.span_s for one in seen) / 3600, 3),
        "changes": sum(a.instances != b.instances for a, b in zip(seen, seen[1:])),
        "mean_wait_s": round(mean([(one.queue_s, one.requests) for one in seen]), 4),
        "longest_mean_wait_s": round(max((one.queue_s for one in seen), default=0.0), 4),
        "share_inside_target": round(len(inside) / len(seen), 4) if seen else 1.0,
    }


def lines(moments: Sequence[Moment], models: Mapping[str, Model]) -> Iterator[str]:
    """For people: the models, a row for each moment at which something is wished or changed, and the sums."""
    for role, model in models.items():
        about = f"{model.slots} at once, {model.busy_s:.3g} s each, first token after {model.first_s:.3g} s"
        yield f"{PREFIX[role]}: begins with {model.instances}, {about}{'' if model.target else '; stays as it is'}"
    yield ""
    yield f"{'at':>8}  " + "".join(f"{PREFIX[role]:>4}{'wait':>9}{'requests/s':>12}  " for role in models) + "wish"
    before: dict[str, int] = {}
    for moment in moments:
        counts = {role: step.seen.instances for role, step in moment.items()}
        wishes = [
            f"{PREFIX[role]}={step.wish.instances}: {step.wish.why}"
            for role, step in moment.items()
            if step.wish and step.wish.instances != step.seen.instances
        ]
        if wishes or counts != before:
            yield _row(moment, "; ".join(wishes))
        before = counts
    yield ""
    for role, model in models.items():
        told = sums(moments, role, model)
        share = f"{told['share_inside_target']:.1%} of the time inside the target, " if model.target else ""
        hours = (
            f"{told['instance_hours']:.3g} instance hours ({told['instance_hours_at_most']:.3g} with as many as there may be all the time)"
        )
        yield f"{PREFIX[role]}: {told['requests']} requests, {share}{told['changes']} changes, {hours}"


def _row(moment: Moment, wish: str) -> str:
    at_s = next(iter(moment.values())).seen.at_s
    cells = (f"{one.seen.instances:>4}{one.seen.queue_s:>8.3g}s{one.seen.requests / one.seen.span_s:>12.3g}  " for one in moment.values())
    return (f"{at_s:>7.0f}s  " + "".join(cells) + wish).rstrip()
