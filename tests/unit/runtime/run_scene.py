"""A run folder in the making, with events and logs as the gateway writes them, and the verdict on it."""

import json

from disagg_launch.runtime import verdict
from disagg_launch.runtime.chronicle import stamp

T0 = 1_767_225_600.0


class Scene:
    """A run folder in the making. Times are seconds since the gateway began."""

    def __init__(self, run):
        self.run = run
        (run / "logs").mkdir()
        (run / "state").mkdir()
        self.events = []
        self.event(0, "begun", "")

    def event(self, at, event, instance, text="", **more):
        self.events.append({"at": T0 + at, "t": at, "event": event, "instance": instance, "text": text, **more})

    def instance(self, name, *ranks, stage="role taken"):
        """One with these global ranks, started at 0; its log has its header."""
        for rank in ranks:
            self.event(0, "rank", name, rank=rank, ranks=[rank], host=f"node{rank}", pid=1, gpus=[str(rank)])
        self.event(0, "stage", name, stage=stage, life=1)
        self.raw(name, f"# {name} plan 0123456789ab start 1 at {stamp(T0)}")

    def raw(self, name, line):
        with (self.run / f"logs/{name}.log").open("a") as file:
            file.write(line + "\n")

    def say(self, at, name, rank, text):
        self.raw(name, f"[{rank}] {stamp(T0 + at)} {text}")

    def end(self, at, name, how="exit code 1", rank=None, instance_rank=0):
        more = {} if rank is None else {"rank": rank, "host": f"node{rank}", "gpus": [str(rank)], "how": how}
        text = how if rank is None else f"rank {instance_rank} on node{rank}: {how}"
        self.event(at, "ended", name, text, life=1, code=6, **more)

    def judged(self, instance="", oom_kills=0, reason="it failed"):
        (self.run / "state/events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in self.events))
        return verdict.judged(str(self.run), "failed", reason, 6, instance, oom_kills)
