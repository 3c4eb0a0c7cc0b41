"""A snapshot as plain lines, for pipes and files: a line for the deployment, one for the router, one for each instance. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from disagg_launch.watch.shape import InstanceRow, RouterRow, Snapshot, Spread
from disagg_launch.watch.words import by_stage, clean


def lines(shot: Snapshot) -> Iterator[str]:
    """`key=value` words, seconds and counts without units, so that awk can read them; values that are not known are left out."""
    at = datetime.fromtimestamp(shot["at"], timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    job = f" ({shot['job']})" if shot["job"] else ""
    yield f"{at} {shot['name']} plan {shot['digest']}: {shot['state']}, {shot['url'] or 'no url yet'}{job}: {by_stage(shot['instances'])}"
    if shot["answers"]:
        yield "  router " + _router(shot["router"])
    width = max((len(one["name"]) for one in shot["instances"]), default=0)
    for one in shot["instances"]:
        yield f"  {one['name']:{width}} {_instance(one)}"
    for other in shot["others"]:
        words = (f"{key}={other[key]}" for key in ("active", "requests", "errors"))
        yield f"  {other['url']} role={other['role']} worker={other['worker_state']} " + " ".join(words)
    if shot["verdict"]:
        yield clean(f"  verdict: {shot['verdict'].get('reason', '')}")


def _router(row: RouterRow) -> str:
    words = [f"{key}={row[key]}" for key in ("in_flight", "queued", "requests", "answered", "errors", "shed", "retries", "tokens")]
    for key, rate in (("requests_per_s", row["requests_per_s"]), ("tokens_per_s", row["tokens_per_s"])):
        words += [f"{key}={rate:.4g}"] if rate is not None else []
    for key, spread in (("ttft_s", row["ttft_s"]), ("inter_token_s", row["inter_token_s"]), ("kv_hand_over_s", row["kv_hand_over_s"])):
        words += _spread(key, spread)
    return " ".join(words)


def _spread(key: str, spread: Spread) -> list[str]:
    return [f"{key}_{name}={value:.4g}" for name, value in (("p50", spread["p50"]), ("p99", spread["p99"])) if value is not None]


def _instance(one: InstanceRow) -> str:
    words = [f"stage={one['stage'].replace(' ', '_')}"]
    words += [f"percent={one['percent']:.0f}"] if one["percent"] is not None else []
    words += [f"since_s={one['since_s']:.1f}"] if one["since_s"] is not None else []
    words += [f"worker={one['worker_state']}"] if one["worker_state"] else []
    words += [f"active={one['active']}", f"requests={one['requests']}", f"errors={one['errors']}", f"restarts={one['restarts']}"]
    said = one["ended"] or one["detail"]
    return " ".join(words) + (f" {clean(said)}" if said else "")
