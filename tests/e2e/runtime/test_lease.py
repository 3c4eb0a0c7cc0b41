"""A worker on another node outlives neither its gateway nor its replacement: leases and companions against a real desk."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from deployments import survivors, until

from disagg_launch.launch import Policy
from disagg_launch.runtime.desk import Desk
from disagg_launch.runtime.progress import Figures


class Reception:
    """A desk in a thread of its own, which takes every role and tells the rank to leave a companion beside its worker."""

    def __init__(self, run, fence_s=30.0, beats_of_s=30.0, refuse=False, grace_s=0.5):
        self.heard, self.lost, self.said = [], [], []
        self.fence_s, self.refuse, self.grace_s, self.starts = fence_s, refuse, grace_s, 0
        (run / "state").mkdir()
        (run / "state" / "token").write_text("secret\n")
        self.loop = asyncio.new_event_loop()
        hears = self.lost.append, lambda *_: None, lambda _, message: self.said.append(message)
        self.desk = Desk(b"secret", beats_of_s, self.answer, *hears)
        self.port = self.loop.run_until_complete(self.desk.open("127.0.0.1"))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def answer(self, message, peer):
        self.heard.append(message)
        if message["kind"] == "lease" and self.refuse:
            return {"refused": "replaced"}
        self.starts += message["kind"] == "role"
        which = {"life": "life-of-" + str(self.port), "start": self.starts}
        return {"ok": True, **which, "companion": True, "fence_s": self.fence_s, "grace_s": self.grace_s}

    def leased(self):
        return any(m["kind"] == "lease" for m in self.heard)

    def close(self):
        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.desk.close(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()


@pytest.fixture
def far(deploy):
    """far(worker flags, ...) is a run whose one rank was started by something like Slurm, the desk it reports to, and its worker."""
    desks, workers = [], []

    def build(*flags, **desk):
        run = deploy(flags={"ctx0": flags})
        desks.append(Reception(run.run, **desk))
        return run.run, desks[-1], begin(run, desks[-1])

    def begin(run, desk):
        environ = {**os.environ, "DISAGG_GATEWAY": f"127.0.0.1:{desk.port}", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
        argv = [sys.executable, str(run.run / "runtime.pyz"), "rank", "--launcher=slurm", "--step=ctx0", f"--digest={run.plan.digest}"]
        worker = subprocess.Popen(argv, env=environ, start_new_session=True)
        workers.append(worker)
        desk.begin_again = lambda: begin(run, desk)
        return worker

    yield build
    for one in desks:
        one.close()
    for one in workers:
        one.kill()
        one.wait()


@pytest.mark.parametrize("flags", [(), ("--deaf", "1", "--fork", "1")])
def test_a_companion_ends_a_worker_whose_gateway_is_gone(far, flags):
    run, desk, worker = far(*flags)
    until(desk.leased)
    assert worker.poll() is None
    desk.close()
    until(lambda: worker.poll() is not None and survivors(run) == [])


def test_a_companion_ends_a_worker_that_hears_nothing_for_the_fence_time(far):
    """The desk beats every six seconds; a fence of half a second must go off long before the next."""
    run, _, worker = far(fence_s=0.5)
    until(lambda: worker.poll() is not None and survivors(run) == [])


def test_a_worker_that_was_replaced_is_ended(far):
    run, _, worker = far(refuse=True)
    until(lambda: worker.poll() is not None and survivors(run) == [])


def test_a_companion_leaves_with_its_worker_and_takes_the_grandchildren(far):
    run, desk, worker = far("--fork", "1")
    until(desk.leased)
    until(lambda: len(survivors(run)) == 3)  # worker, grandchild, companion
    worker.kill()
    worker.wait()
    until(lambda: survivors(run) == [])


def test_a_companion_does_not_end_the_successor_of_its_worker(far):
    """It has to wait for a deaf grandchild, and the next start of the instance is up before that one is killed."""
    run, desk, worker = far("--deaf", "1", "--fork", "1", grace_s=2)
    until(desk.leased)
    until(lambda: len(survivors(run)) == 3)
    companion = companion_of(worker, run)
    worker.kill()
    worker.wait()
    successor = desk.begin_again()
    companion.wait(30)
    assert successor.poll() is None


def test_a_companion_tells_what_its_worker_has_used_and_where_it_is(far):
    _, desk, worker = far("--load", "growth")
    until(desk.leased)

    def ask(message, name):
        desk.loop.call_soon_threadsafe(desk.desk.tell_leases, message)
        return until(lambda: next((one[name] for one in desk.said if name in one), None))

    first = Figures.from_wire(ask({"pulse": True}, "figures"))

    def grown():
        desk.loop.call_soon_threadsafe(desk.desk.tell_leases, {"pulse": True})
        return [one for one in desk.said if "figures" in one and one["figures"]["memory_bytes"] > first.memory_bytes + (20 << 20)]

    assert until(grown)[0]["figures"]["cpu_s"] > 0
    lines = ask({"stacks": ""}, "samples")
    assert any(line.startswith(f"pid {worker.pid} python") for line in lines)


def test_a_companion_is_no_child_of_the_worker(far):
    _, desk, worker = far()
    until(desk.leased)
    assert psutil.Process(worker.pid).children() == []


def test_a_gateway_misses_a_lease_holder_that_falls_silent(far):
    run, desk, worker = far(beats_of_s=0.5)
    until(desk.leased)
    companion = companion_of(worker, run)
    companion.suspend()
    until(lambda: desk.lost)
    assert desk.lost[0]["pid"] == worker.pid
    companion.resume()


def companion_of(worker, run):
    return next(p for p in psutil.process_iter() if p.pid != worker.pid and is_companion(p, run))


def is_companion(process, run):
    try:
        return f"{run}/runtime.pyz" in process.cmdline()
    except psutil.Error:
        return False


def test_our_own_workers_hold_a_lease_and_say_why_they_leave(deploy):
    run = deploy(flags={"ctx0": ("--lease", "1", "--deaf", "1")}, policy=Policy(grace_s=20))
    run.up().ready()
    worker = psutil.Process(run.pids("ctx0")[0])
    os.kill(run.process.pid, signal.SIGKILL)
    worker.wait(15)
    assert "is gone" in (run.run / "lost").read_text()
    until(lambda: survivors(run.run) == [])
