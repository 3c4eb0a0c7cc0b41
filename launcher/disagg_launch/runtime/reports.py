"""What ranks, leases and control commands tell the gateway, and what they are answered."""

from __future__ import annotations

import socket
from typing import Callable, Dict, Optional

from disagg_launch.errors import RankRefused
from disagg_launch.launch import Launch
from disagg_launch.plan import Plan
from disagg_launch.runtime.desk import Message
from disagg_launch.runtime.events import Events
from disagg_launch.runtime.fleet import Fleet
from disagg_launch.runtime.launchers import LAUNCHERS
from disagg_launch.runtime.record import Record

LOCAL_PEERS = ("127.", "::1", "::ffff:127.")
HERE = ("localhost", "127.0.0.1", "::1")


class Reports:
    """Answers each kind of message by its method `_<kind>`. Identity is checked here: plan digest, rank, host, one process per rank."""

    def __init__(
        self, fleet: Fleet, events: Events, life: str, state: Callable[[], str], stop: Callable[[], None], changed: Callable[[], None]
    ) -> None:
        self.fleet, self.events, self.life, self.state, self.stop, self.changed = fleet, events, life, state, stop, changed
        self.own_name = socket.gethostname()
        self.kinds: Dict[str, Callable[[Message, str], Message]] = {
            "role": self._role,
            "refusal": self._refusal,
            "lease": self._lease,
            "stop": self._stop,
            "state": self._state,
        }

    @property
    def plan(self) -> Plan:
        """The fleet's plan, which may grow."""
        return self.fleet.plan

    @property
    def launch(self) -> Launch:
        """The fleet's launch."""
        return self.fleet.launch

    def answer(self, message: Message, peer: str) -> Message:
        """What the sender is told; {"refused": sentence} when it may not go on."""
        kind = self.kinds.get(message.get("kind", ""))
        return kind(message, peer) if kind else {"refused": f"the gateway does not know messages of kind {message.get('kind')!r}"}

    def lost(self, lease: Message) -> None:
        """A lease was silent too long: its instance counts as ended, and its processes have fenced themselves by now."""
        one, now_s = self.fleet.records[lease["instance"]], self.fleet.now_s()
        if one.reports.get(lease["rank"], {}).get("pid") == lease["pid"] and not self.fleet.stopping:
            self.fleet.hosts.silent.add(lease["host"])
            one.end(f"node {lease['host']} has not been heard of for {self.launch.policy.fence_s:g} s", now_s)
            self.changed()

    def hear(self, message: Message, text: str) -> None:
        """One line that the rank of a "role" message said on its own connection."""
        self.fleet.hear(self.plan.ranks[message["ranks"][0]], text)

    def _role(self, message: Message, peer: str) -> Message:
        if message["digest"] != self.plan.digest:
            why = f"its plan is {message['digest']}, the gateway's is {self.plan.digest}: render the run again"
            return {"refused": why, "code": RankRefused.STALE_PLAN}
        one = self.fleet.records[message["instance"]]
        node = self.plan.ranks[message["ranks"][0]].node
        if not self._is_host(node, message["host"], peer):
            why = f"it runs on {message['host']}, node {node} is {self.fleet.binding.hosts[node]}: start the step on its nodes"
            return {"refused": why, "code": RankRefused.NO_RANK}
        self.fleet.hosts.silent.discard(message["host"])
        where = {key: message[key] for key in ("host", "pid", "gpus")}
        far = message["launcher"] == "slurm" or message["host"] != self.own_name
        one.report(message["ranks"], where, self.fleet.now_s(), far)
        self.events.tell("rank", "role taken", one.name, rank=message["ranks"][0], ranks=message["ranks"], **where)
        if message["host"] == self.own_name:
            self.fleet.watch_rank(message["ranks"][0], message["pid"])
        self.changed()
        policy = self.launch.policy
        which = {"life": self.life, "start": one.starts}
        answer = {"ok": True, **which, "companion": far, "fence_s": policy.fence_s, "grace_s": policy.grace_s}
        many = len(self.fleet.tasks[self.fleet.step_of[one.name].step]) > 1
        return {**answer, "output": many and LAUNCHERS[message["launcher"]].mixes}

    def _refusal(self, message: Message, peer: str) -> Message:
        steps = {s.step: s.instances[0] for s in self.launch.starts}
        one: Optional[Record] = self.fleet.records.get(message.get("instance") or steps.get(message["step"], ""))
        if one is not None:
            one.refusal, one.refusal_code = one.refusal or message["why"], message["code"]
        return {"ok": True}

    def _lease(self, message: Message, peer: str) -> Message:
        one = self.fleet.records[message["instance"]]
        now = one.reports.get(message["rank"], {})
        if (now.get("pid"), now.get("host")) != (message["pid"], message["host"]):
            return {"refused": f"rank {message['rank']} is now another process: this one was replaced"}
        return {"ok": True, "fence_s": self.launch.policy.fence_s}

    def _stop(self, message: Message, peer: str) -> Message:
        self.stop()
        return {"ok": True}

    def _state(self, message: Message, peer: str) -> Message:
        return {"ok": True, "state": self.state()}

    def _is_host(self, node: int, host: str, peer: str) -> bool:
        """Whether a report from `host`, which connected from `peer`, can come from the machine that the node is bound to."""
        wanted = {self.fleet.binding.hosts[node], self.fleet.binding.addresses[node]}
        if any(is_loopback(name) for name in wanted):
            return host == self.own_name
        return peer in wanted or short(host) in {short(name) for name in wanted}


def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean the machine that reads it."""
    return name in HERE or name.startswith(LOCAL_PEERS)


def short(name: str) -> str:
    """The first label of a host name; an address stays whole."""
    return name if name.replace(".", "").isdigit() else name.split(".")[0].lower()
