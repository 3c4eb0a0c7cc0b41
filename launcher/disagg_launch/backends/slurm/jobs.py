"""What is done with a Slurm job after it was rendered: send it, find its folder, ask how it is, cancel it. Effects only."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from disagg_launch.errors import BackendRefused, BadInput, DisaggError, NotReady, WorkerDied
from disagg_launch.runtime import verdict
from disagg_launch.runtime.folder import call

JOB = "job.json"
ASK_S = 30.0
FEW = 8
"""More instances than this are told as counts."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")
GONE = "GONE"
LIVING = (*WAITING, "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class Seen:
    """A job as Slurm sees it now. `start`: when it began, or is expected to; `exit` as Slurm writes it, code:signal. "" where unknown."""

    job: str
    state: str
    reason: str = ""
    start: str = ""
    exit: str = ""
    folder: str = ""

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVING

    def sentence(self) -> str:
        """One line for people."""
        if self.state in WAITING:
            return (
                f"job {self.job}: {self.state.lower()} ({self.reason or 'no reason given'}), expected start {self.start or 'not known yet'}"
            )
        if self.alive:
            return f"job {self.job}: {self.state.lower()} since {self.start}"
        if self.state == GONE:
            return f"job {self.job}: Slurm does not know it (any more)"
        why = f" ({self.reason})" if self.reason else ""
        return f"job {self.job}: {self.state.lower()}{why}" + (f", exit code {self.exit}" if self.exit not in ("", "0:0") else "")


def send(folder: Path, extra: Iterable[str] = ()) -> str:
    """The id of the job that runs a rendered folder; it is also written to job.json there. BackendRefused if Slurm refuses."""
    job = _slurm("sbatch", "--parsable", *extra, "job.sbatch", cwd=folder).strip().split(";")[0]
    _remember(folder, job)
    return job


def send_array(folder: Path, count: int) -> str:
    """The id of the array whose tasks run the folders 0 to `count` - 1 in `folder`."""
    job = send(folder)
    for number in range(count):
        _remember(folder / str(number), f"{job}_{number}")
    return job


def _remember(folder: Path, job: str) -> None:
    (folder / JOB).write_text(json.dumps({"job": job}) + "\n", encoding="utf-8")


def test(folder: Path) -> str:
    """What Slurm says about when and where the folder's job could start; nothing is sent. BackendRefused if it could never."""
    return _slurm("sbatch", "--test-only", "job.sbatch", cwd=folder, said_on_error=True).replace("sbatch: ", "").strip()


def folder_of(text: str) -> Path:
    """The run folder that `text` names: itself, or the folder of the job of that number. BadInput when Slurm has forgotten the job."""
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", text) or Path(text).exists():
        return Path(text)
    seen = ask(text)
    if not seen.folder:
        raise BadInput(f"{seen.sentence()}; name the run folder instead")
    return _folder_of(seen)


def check_one(folder: Path) -> None:
    """BadInput when a folder is that of an array, whose tasks have the run folders."""
    tasks = sorted(int(path.parent.name) for path in folder.glob("[0-9]*/plan.json"))
    if tasks and not (folder / "plan.json").exists():
        named = ", ".join(f"{job_of(folder)}_{number} ({folder}/{number})" for number in tasks)
        raise BadInput(f"{folder} is an array of {len(tasks)} runs; name one of them: {named}")


def _folder_of(seen: Seen) -> Path:
    # the task of an array runs in the folder of its number
    return Path(seen.folder) / seen.job.partition("_")[2]


def job_of(folder: Path) -> Optional[str]:
    """The id of the job that was sent from a folder last; None if none was."""
    try:
        job: str = json.loads((folder / JOB).read_text(encoding="utf-8"))["job"]
    except FileNotFoundError:
        return None
    return job


def ask(job: str) -> Seen:
    """How the job is; state GONE if Slurm has forgotten it."""
    try:
        text = _slurm("scontrol", "show", "job", job)
    except BackendRefused as refused:
        if "Invalid job id" in str(refused):
            return Seen(job, GONE)
        raise
    # one `Key=value` after the other; the folder stands alone on its line and may hold blanks
    found = dict(re.findall(r"(\w+)=(\S*)", text.split("\n\n")[0]))
    folder = re.search(r"^ *WorkDir=(.*)$", text, re.MULTILINE)
    told = {key: "" if found.get(key) in (None, "None", "Unknown", "(null)", "N/A") else found[key] for key in ("Reason", "StartTime")}
    exit_code = "" if found["JobState"] in LIVING else found.get("ExitCode", "")
    return Seen(job, found["JobState"], told["Reason"], told["StartTime"], exit_code, folder.group(1) if folder else "")


def status(folder: Path) -> dict[str, Any]:
    """state/status.json of the gateway that the folder's present job runs; {} when it has written none yet."""
    try:
        found: dict[str, Any] = json.loads((folder / "state/status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if found.get("job") == job_of(folder) else {}


def status_now(folder: Path, seen: Optional[Seen] = None) -> dict[str, Any]:
    """The gateway's status with `job`, what Slurm says (or has said, if `seen`), added; while there is none, only that and `state`:
    pending, starting or ended."""
    seen = seen or ask(job_of(folder) or "")
    found = status(folder)
    if not found:
        found = {"state": "pending" if seen.state in WAITING else "starting" if seen.alive else "ended"}
    elif not seen.alive and found["state"] in ("starting", "ready", "stopping"):
        found["state"] = "lost"
    return {**found, "job": seen.sentence()}


def outcome(folder: Path, seen: Seen) -> Optional[DisaggError]:
    """What is wrong with the deployment of a folder: None while it waits, starts or serves."""
    state = status(folder).get("state", "")
    if state == "failed" or (state and not seen.alive):
        path = folder / verdict.PATH
        told = {**verdict.BLANK, **(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})}
        error = DisaggError("\n".join([told["reason"] or seen.sentence(), *verdict.paragraphs(told)]))
        error.exit_code = told["exit_code"] or WorkerDied.exit_code
        return error
    return None if seen.alive else WorkerDied(f"{seen.sentence()}; look at {folder}/logs")


def wait(folder: Path, limit_s: float, say: Any) -> str:
    """The front door's URL once it is open. Tells `say` what is waited for; raises the verdict's error, or NotReady after `limit_s`."""
    check_one(folder)
    job = job_of(folder)
    if job is None:
        raise BadInput(f"{folder}: no job was sent from here; send one with `disagg-launch submit`")
    deadline, last = time.monotonic() + limit_s, ""
    while True:
        seen = ask(job)
        if error := outcome(folder, seen):
            raise error
        found = status(folder)
        if found.get("state") == "ready":
            return str(found["router"]["url"])
        now = "; ".join([seen.sentence(), *_stages(found.get("instances", ()))])
        if now != last:
            say(now)
            last = now
        if time.monotonic() > deadline:
            raise NotReady(f"not ready after {limit_s:g} s: {now}")
        time.sleep(0.5)


def _stages(instances: Sequence[dict[str, Any]]) -> list[str]:
    """How far each instance is, or how many of them are so far."""
    if len(instances) <= FEW:
        return [f"{one['name']} {one['stage']}" for one in instances]
    return [f"{count} {stage}" for stage, count in Counter(one["stage"] for one in instances).items()]


def cancel(job: str, patience_s: float) -> Seen:
    """The job after its end. One that runs gets the chance to stop in order for `patience_s`, then Slurm ends it."""
    seen = ask(job)
    if seen.state == "RUNNING":
        _ask_to_stop(seen)
        seen = until_ended(job, patience_s)
    if seen.alive:
        _slurm("scancel", job)
        seen = until_ended(job, ASK_S)
    return seen


def _ask_to_stop(seen: Seen) -> None:
    """Have a running job's gateway stop everything in order: by word, after which Slurm calls the job COMPLETED, or else by a signal."""
    run = _folder_of(seen)
    with contextlib.suppress(BackendRefused):
        if status(run).get("job") == seen.job:
            call(str(run), {"kind": "stop"})
            return
    # to the batch script alone, whose gateway then ends the steps one after the other
    _slurm("scancel", "--batch", "--signal=TERM", seen.job)


def until_ended(job: str, limit_s: float) -> Seen:
    """The job when it has ended, or after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while (seen := ask(job)).alive and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


def _slurm(*argv: str, cwd: Optional[Path] = None, said_on_error: bool = False) -> str:
    """What a Slurm command printed. BackendRefused with its complaint, or if it is not installed or does not answer."""
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=ASK_S, check=False)
    except FileNotFoundError:
        raise BackendRefused(f"{argv[0]} is not installed here: run this on a login node of the cluster, or add --dry-run") from None
    except subprocess.TimeoutExpired:
        raise BackendRefused(f"{' '.join(argv)}: no answer within {ASK_S:g} s; ask again, or look at `scontrol ping`") from None
    if done.returncode:
        raise BackendRefused(f"{argv[0]} said no: {done.stderr.strip() or done.stdout.strip()}")
    return done.stderr if said_on_error else done.stdout
