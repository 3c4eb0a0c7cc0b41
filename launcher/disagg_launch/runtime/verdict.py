"""The verdict on a deployment that failed: who failed first, where, how, its first error lines, a likely cause, and one thing to do.

It is made of state/events.jsonl and the logs alone, so that it can be made again later, also when the gateway was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from typing import Any, Dict, List, Optional

from disagg_launch.errors import WorkerDied
from disagg_launch.runtime import causes, chronicle, logbook, signs
from disagg_launch.runtime.causes import Cause
from disagg_launch.runtime.chronicle import Story, seconds, stamp
from disagg_launch.runtime.folder import write_private
from disagg_launch.runtime.readiness import FAILED
from disagg_launch.runtime.sieve import LATER
from disagg_launch.runtime.signs import Evidence, Sign

PATH = os.path.join("state", "verdict.json")
GATEWAY, GATEWAY_LOG = "gateway", os.path.join("logs", "gateway.log")
LAST_LINES = 12
RESTARTS = 20
"""So many restarts, the newest, are told with their causes."""
LIMIT_IS_NEAR_S = 300.0
"""Slurm says SIGTERM ahead of the time limit (slurm.signal_s, and up to a minute more)."""
_RANK = re.compile(r"rank (\d+) on \S+: ")

Told = Dict[str, Any]
BLANK: Told = {
    "state": "", "reason": "", "exit_code": 0, "at": "",
    "instance": "", "rank": None, "host": "", "gpus": [], "how": "", "first_at": "", "log": "", "first_errors": [], "last_lines": [],
    "cause_number": "", "cause_name": "", "cause": "", "remedy": "",
    "followed": [], "restarts": [], "unread": [],
}  # fmt: skip
"""Every key of state/verdict.json; docs/verdict.md tells what each means."""


def write(run: str, told: Told) -> None:
    """Put it into state/verdict.json."""
    write_private(os.path.join(run, PATH), json.dumps(told, indent=1) + "\n")


def forget(run: str) -> None:
    """A new life of the run folder: the verdict on the last one is void."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run, PATH))


def judged(run: str, state: str, reason: str, exit_code: int, instance: str, oom_kills: int = 0) -> Told:
    """The whole verdict, from what the gateway says of it. `oom_kills`: how many processes its kernel killed for memory meanwhile."""
    story = chronicle.read(run)
    # made again later, it still means the moment at which it was decided
    decided_at = float(story.verdict["at"]) if story.verdict else time.time()
    told = {**BLANK, "state": state, "reason": reason, "exit_code": exit_code, "instance": instance, "at": stamp(decided_at)}
    if state != FAILED:
        left_s = story.until - decided_at
        if story.until and left_s < LIMIT_IS_NEAR_S and exit_code == 128 + signal.SIGTERM:
            told["how"] = f"{max(0.0, left_s):.0f} s before the job's time limit"
            told.update(_words(causes.fits(told["how"], causes.END)))
        elif exit_code:
            told.update(_words(causes.fits(reason, causes.END)))  # somebody was missing
        return told
    story.without(story.missing - {instance})  # the others served on without them
    until = stamp(decided_at) if story.verdict else LATER
    found, told["unread"] = signs.gather(run, story, until)
    sign = signs.first_sign(found, instance)
    if sign is None:
        told.update(_words(causes.fits(reason, causes.END) or causes.fits(reason)))
    else:
        _blame(told, story, next(one for one in found if one.instance == sign.instance), sign, oom_kills)
    log = os.path.join("logs", f"{told['instance']}.log")
    told["log"] = log if os.path.exists(os.path.join(run, log)) else ""
    told["last_lines"] = last_lines(run, log, until)
    told["restarts"] = restarts(run, story)
    return told


def _blame(told: Told, story: Story, one: Evidence, sign: Sign, oom_kills: int) -> None:
    end = one.end
    place = dict(end.place) if end else {}
    said_by = story.place(one.instance, sign.rank)
    if said_by and said_by["rank"] != place.get("rank"):
        # the rank whose error came first is not the one that ended the instance
        place = said_by
    spoken = _RANK.match(end.text) if end and "rank" in place else None
    told.update(instance=one.instance, first_at=sign.stamp, host=place.get("host", ""), gpus=list(place.get("gpus", ())))
    told["rank"] = int(sign.rank) if sign.rank.isdigit() else int(spoken[1]) if spoken else None
    told["how"] = (end.place.get("how") or end.text) if end else "had not ended yet"
    told["first_errors"] = one.first_errors(sign)
    cause = one.cause(sign)
    if cause and cause.name == "killed" and oom_kills and told["host"] == socket.gethostname():
        told["how"] += f"; the kernel killed {oom_kills} process{'es' * (oom_kills > 1)} of this host for memory meanwhile"
        cause = causes.fits(told["how"], causes.END)
    told.update(_words(cause))
    told["followed"] = [
        {"instance": other.instance, "after_s": round(max(0.0, other.at - seconds(sign.stamp)), 3), "how": other.text}
        for other in story.dead.values()
        if other is not end
    ]


def _words(cause: Optional[Cause]) -> Dict[str, str]:
    """What is told of a cause; empty words if none is known."""
    return cause.in_words() if cause else dict.fromkeys(("cause_number", "cause_name", "cause", "remedy"), "")


def restarts(run: str, story: Story) -> List[Dict[str, Any]]:
    """The ends that an instance was started again after, each with how, and its likely cause ("" if none is known)."""
    out = []
    for end in [one for one in story.ends if one is not story.dead.get(one.instance)][-RESTARTS:]:
        evidence = signs.of_instance(run, end.instance, end, stamp(end.at - signs.LOOK_BACK_S), LATER, signs.LEAST_BYTES)
        sign = evidence.first_sign()
        cause = evidence.cause(sign) if sign else None
        out.append({"instance": end.instance, "at": stamp(end.at), "how": end.text, **_words(cause)})
    return out


def on_gateway(run: str, host: str, why: str, cause: Optional[Cause] = None) -> Told:
    """The verdict when it is the gateway that was lost, and with it everything."""
    story = chronicle.read(run)
    told = {**BLANK, "state": FAILED, "reason": why, "exit_code": WorkerDied.exit_code, "at": stamp(time.time())}
    told.update(instance=GATEWAY, host=host, how=why, first_at=stamp(story.last_at), log=GATEWAY_LOG)
    told.update(last_lines=last_lines(run, GATEWAY_LOG, LATER), restarts=restarts(run, story))
    return {**told, **_words(cause or causes.fits(why, causes.END))}


def rebuilt(run: str, job: str = "") -> Told:
    """The verdict on a run whose gateway ended without a word. `job`: what Slurm says of its job, "" without Slurm."""
    story = chronicle.read(run)
    if story.verdict:
        event = story.verdict
        return judged(run, event["state"], event["text"], int(event["code"]), event["instance"])
    why = f"the gateway ended without a word{f' ({job})' if job else ''}; its last event was at {stamp(story.last_at)}"
    dead = next((name for name in story.dead if name not in story.missing), "")
    if dead:
        # it was killed while it judged, or restarted, somebody
        return judged(run, FAILED, why, WorkerDied.exit_code, dead)
    return on_gateway(run, _gateway_host(run), why, causes.fits(job, causes.JOB) if job else None)


def _gateway_host(run: str) -> str:
    try:
        with open(os.path.join(run, "state", "gateway.json"), encoding="utf-8") as file:
            host: str = json.load(file)["host"]
    except (OSError, ValueError, KeyError):
        return ""
    return host


def last_lines(run: str, log: str, until: str) -> List[str]:
    """The last lines of a log that say something, up to a moment, without their stamps; [] if there is no such log."""
    said: List[str] = []
    with contextlib.suppress(OSError), open(os.path.join(run, log), "rb") as file:
        end = logbook.offset_at(file, until)
        begin = max(0, end - signs.LEAST_BYTES)
        file.seek(begin)
        lines = file.read(end - begin).split(b"\n")[1 if begin else 0 :]
        said = [text for text in (logbook.line(raw).text for raw in lines) if text.strip() and not text.startswith(logbook.HEADER)]
    return said[-LAST_LINES:]


def where(told: Told) -> str:
    """Who failed, in words: "ctx1 rank 0 on node3 (GPU 1)"."""
    rank = f" rank {told['rank']}" if told.get("rank") is not None else ""
    host = f" on {told['host']}" if told.get("host") else ""
    gpus = f" (GPU {', '.join(told['gpus'])})" if told.get("gpus") else ""
    return f"{told['instance']}{rank}{host}{gpus}"


def one_line(told: Told) -> str:
    """The verdict in one line."""
    if told["state"] != FAILED:
        return ", ".join(text for text in (told["reason"], told["how"]) if text)
    if not told["instance"]:
        return str(told["reason"])
    why = f"{told['cause']} ({told['cause_number']}): {told['remedy']}" if told.get("cause") else told.get("how") or told["reason"]
    return f"{where(told)} failed first: {why}"


def paragraphs(told: Told) -> List[str]:
    """The verdict for people, without the reason."""
    out = []
    if told.get("first_at"):
        out.append(f"first to fail: {where(told)} at {told['first_at']}: {told['how']}")
    elif told.get("how"):
        out.append(f"that was {told['how']}")
    lines, of = (told["first_errors"], "first errors") if told.get("first_errors") else (told.get("last_lines"), "last lines")
    if lines:
        out.append(f"{of}, {told['log']}:" + "".join(f"\n    {text}" for text in lines))
    if told.get("cause"):
        out.append(f"likely cause: {told['cause']} ({told['cause_number']} {told['cause_name']})")
        out.append(f"what to do: {told['remedy']}")
    out += [f"{other['after_s']:.1f} s later: {other['instance']}: {other['how']}" for other in told.get("followed", ())[:LAST_LINES]]
    if told.get("unread"):
        out.append(f"not read, for there was too much: the logs of {', '.join(told['unread'])}")
    return out


def oom_kills() -> int:
    """How many processes this host's kernel has killed for lack of memory since it started; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
