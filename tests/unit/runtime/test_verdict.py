"""Who failed first: events and logs as the gateway writes them, and what the verdict makes of them."""

import json

import pytest
from run_scene import T0, Scene

from disagg_launch.runtime import sieve, verdict
from disagg_launch.runtime.chronicle import stamp


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_of_64_instances_the_first_to_fail_is_found_not_the_loudest(scene, monkeypatch):
    """gen41's rank 2 runs out of memory; everybody else sees connections break, and shouts about it."""
    monkeypatch.setattr("disagg_launch.runtime.signs.BUDGET_S", 600.0)  # not a matter of how busy this machine is
    for n in range(64):
        scene.instance(f"gen{n}", *range(4 * n, 4 * n + 4))
    for n in range(64):
        for k in range(500 if n != 41 else 1):
            scene.say(
                10 + k / 1000,
                f"gen{n}",
                k % 4,
                f"ERROR 01-01 00:00:00 [nccl.py:{k}] ncclRemoteError: Connection closed by remote peer node41",
            )
        if n == 41:
            scene.say(9.5, "gen41", 2, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
        scene.end(10.1 + n / 100, f"gen{n}", rank=4 * n)
    told = scene.judged("gen0")
    assert (told["instance"], told["rank"], told["host"], told["gpus"]) == ("gen41", 2, "node166", ["166"])
    assert told["cause_name"] == "gpu-memory" and told["first_at"] == stamp(T0 + 9.5)
    assert told["first_errors"][0].startswith("torch.OutOfMemoryError")
    assert len(told["followed"]) == 63 and told["unread"] == []


def test_a_first_error_that_was_held_back_in_a_buffer_is_found_all_the_same(scene):
    scene.instance("ctx0", 0)
    scene.instance("ctx1", 1)
    scene.say(1.0, "ctx1", 0, "[rank0]: Connection reset by peer")
    scene.end(1.1, "ctx1", rank=1)
    scene.say(1.5, "ctx0", 0, "OSError: [Errno 28] No space left on device")
    scene.end(1.6, "ctx0", rank=0)
    assert scene.judged("ctx1")["cause_name"] == "disk-full"


def test_the_engines_own_clocks_are_not_relied_on(scene):
    """node1's clock is an hour ahead, and its engine says so in every line."""
    scene.instance("ctx0", 0)
    scene.instance("ctx1", 1)
    scene.say(2.0, "ctx0", 0, "2026-01-01 00:00:02 ERROR RuntimeError: the second to fail")
    scene.say(1.0, "ctx1", 0, "2026-01-01 01:00:01 ERROR RuntimeError: the first to fail")
    scene.end(2.1, "ctx0", rank=0)
    scene.end(2.2, "ctx1", rank=1)
    assert scene.judged("ctx0")["first_errors"] == ["2026-01-01 01:00:01 ERROR RuntimeError: the first to fail"]


def test_one_that_has_not_ended_is_blamed_if_it_said_why_it_failed(scene):
    scene.instance("ctx0", 0)
    scene.instance("gen0", 1)
    scene.say(1.0, "ctx0", 0, "RuntimeError: CUDA error: uncorrectable ECC error encountered")
    scene.say(200, "gen0", 0, "Watchdog caught collective operation timeout")
    scene.end(201, "gen0", rank=1)
    told = scene.judged("gen0")
    assert (told["instance"], told["how"], told["cause_name"]) == ("ctx0", "had not ended yet", "gpu-broken")
    assert told["followed"] == [{"instance": "gen0", "after_s": 200.0, "how": "rank 0 on node1: exit code 1"}]


def test_old_errors_that_an_engine_lived_with_are_not_its_end(scene):
    scene.instance("ctx0", 0, stage="healthy")
    scene.instance("gen0", 1)
    scene.say(1.0, "ctx0", 0, "OSError: [Errno 28] No space left on device")  # healthy: not a suspect
    scene.say(1.0, "gen0", 0, "ERROR 01-01 [x.py:1] could not load an optional part")
    scene.say(100.0, "gen0", 0, "RuntimeError: the real end")
    scene.end(100.2, "gen0", rank=1)
    told = scene.judged("gen0")
    assert (told["instance"], told["first_errors"], told["cause"]) == ("gen0", ["RuntimeError: the real end"], "")


def test_a_known_error_that_was_lived_with_is_not_blamed_for_a_later_end(scene):
    scene.instance("gen0", 0)
    scene.say(1.0, "gen0", 0, "OSError: [Errno 98] Address already in use")  # it took the next port
    scene.say(300.0, "gen0", 0, "RuntimeError: the real end")
    scene.end(300.2, "gen0", rank=0)
    told = scene.judged("gen0")
    assert (told["first_errors"], told["cause"]) == (["RuntimeError: the real end"], "")


def test_but_it_is_if_the_end_came_from_waiting_in_vain(scene):
    scene.instance("gen0", 0, 1)
    scene.say(1.0, "gen0", 1, "torch.OutOfMemoryError: CUDA out of memory.")
    scene.say(601.0, "gen0", 0, "[rank0]:[E ProcessGroupNCCL.cpp:563] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL")
    scene.say(601.1, "gen0", 0, "terminate called after throwing an instance of 'c10::DistBackendError'")
    scene.end(601.2, "gen0", "signal SIGABRT", rank=0)
    told = scene.judged("gen0")
    assert (told["rank"], told["host"], told["cause_name"], told["first_at"]) == (1, "node1", "gpu-memory", stamp(T0 + 1))


def test_an_abort_after_waiting_in_vain_is_no_crash_of_its_own(scene):
    scene.instance("ctx0", 0)
    scene.instance("ctx1", 1)
    scene.say(5.0, "ctx0", 0, "[rank0]:[E ProcessGroupNCCL.cpp:689] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL")
    scene.end(5.1, "ctx0", "signal SIGABRT", rank=0)
    assert scene.judged("ctx0")["cause_name"] == "peer-hangs"
    scene.end(5.2, "ctx1", "signal SIGKILL", rank=1)
    assert [scene.judged("ctx0")[key] for key in ("instance", "cause_name")] == ["ctx1", "killed"]


def test_an_earlier_life_does_not_count(scene):
    scene.instance("ctx0", 0)
    scene.say(1.0, "ctx0", 0, "torch.OutOfMemoryError: CUDA out of memory.")
    scene.end(1.1, "ctx0", rank=0)
    scene.event(2, "stage", "ctx0", stage="started", life=2)
    scene.raw("ctx0", f"# ctx0 plan 0123456789ab start 2 at {stamp(T0 + 2)}")
    scene.say(3.0, "ctx0", 0, "OSError: [Errno 98] Address already in use")
    scene.event(3.1, "ended", "ctx0", "rank 0 on node0: exit code 1", life=2, code=6, rank=0, host="node0", gpus=["0"], how="exit code 1")
    told = scene.judged("ctx0")
    assert told["cause_name"] == "port-in-use"
    assert [(one["instance"], one["cause_name"]) for one in told["restarts"]] == [("ctx0", "gpu-memory")]


@pytest.mark.parametrize("came_back", [False, True])
def test_who_was_missing_while_the_others_served_on_is_not_blamed_for_their_end(scene, came_back):
    for number, name in enumerate(("ctx0", "ctx1", "gen0")):
        scene.instance(name, number, stage="routed")
    scene.end(10, "ctx1", "node node1 has not been heard of for 30 s")
    scene.event(11, "degraded", "ctx1", ok=False)
    if came_back:
        scene.event(20, "stage", "ctx1", stage="routed", life=2)
        scene.event(20, "degraded", "ctx1", ok=True)
        scene.event(990, "ended", "ctx1", "exit code 3", life=2, code=6)
    scene.end(1000, "gen0", "node node2 has not been heard of for 30 s")
    told = scene.judged("gen0")
    assert told["instance"] == ("ctx1" if came_back else "gen0")
    assert told["cause_name"] == ("" if came_back else "node-failure")
    assert [one["instance"] for one in told["restarts"]] == ["ctx1"]


def test_nor_is_he_when_the_gateway_is_killed(scene):
    scene.instance("ctx0", 0, stage="routed")
    scene.instance("ctx1", 1, stage="routed")
    scene.end(10, "ctx1", "node node1 has not been heard of for 30 s")
    scene.event(11, "degraded", "ctx1", ok=False)
    scene.judged()
    assert verdict.rebuilt(str(scene.run))["instance"] == "gateway"


def test_what_the_launcher_of_a_world_says_belongs_to_the_instance_that_ended_it(scene):
    """srun speaks in the log of the first instance of its step."""
    scene.instance("ctx0", 0)
    scene.instance("gen0", 1, 2)
    scene.say(1.0, "ctx0", "-", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.")
    scene.say(1.0, "ctx0", "-", "srun: error: node2: task 2: Out Of Memory")
    scene.end(1.1, "gen0", "Out Of Memory", rank=2, instance_rank=1)
    scene.end(1.1, "ctx0", "step world ended with gen0")
    told = scene.judged("gen0")
    assert (told["instance"], told["rank"], told["host"], told["cause_name"]) == ("gen0", 1, "node2", "oom-killed")


def test_frames_of_tracebacks_are_left_out(scene):
    scene.instance("ctx0", 0)
    for text in ("Traceback (most recent call last):", '  File "x.py", line 3, in main', "    load()", "ValueError: bad weights"):
        scene.say(1.0, "ctx0", 0, text)
    scene.end(1.1, "ctx0", rank=0)
    assert scene.judged("ctx0")["first_errors"] == ["Traceback (most recent call last):", "ValueError: bad weights"]
    assert scene.judged("ctx0")["last_lines"][-1] == "ValueError: bad weights"


def test_colours_do_not_hide_what_a_line_says(scene):
    """vLLM colours the name of its process also where no terminal is."""
    process = "\x1b[1;36m(EngineCore_DP0 pid=4711)\x1b[0;0m ERROR 10-25 13:08:43 [core.py:708]"
    scene.instance("ctx0", 0)
    scene.say(1.0, "ctx0", 0, f'{process}   File "x.py", line 3, in main')
    scene.say(1.0, "ctx0", 0, f"{process} ValueError: No available memory for the cache blocks. \x1b]0;owned\x07")
    scene.end(1.1, "ctx0", rank=0)
    told = scene.judged("ctx0")
    assert told["cause_name"] == "no-room-for-kv"
    (text,) = told["first_errors"]
    assert text.startswith("(EngineCore_DP0 pid=4711) ERROR") and text.isprintable()


def test_without_any_line_the_end_itself_is_the_sign(scene):
    scene.instance("ctx0", 0)
    scene.instance("ctx1", 1)
    scene.end(1.0, "ctx1", "signal SIGKILL", rank=1)
    scene.end(1.5, "ctx0", "signal SIGTERM", rank=0)
    told = scene.judged("ctx1")
    assert (told["instance"], told["how"], told["cause_name"], told["first_errors"]) == ("ctx1", "signal SIGKILL", "killed", [])


def test_whose_kernel_killed_for_memory_is_told_so_on_this_host_only(scene):
    import socket

    scene.instance("ctx0", 0)
    scene.end(1.0, "ctx0", "signal SIGKILL", rank=0)
    assert scene.judged("ctx0", oom_kills=2)["cause_name"] == "killed"
    scene.events[-1]["host"] = socket.gethostname()
    told = scene.judged("ctx0", oom_kills=2)
    assert told["cause_name"] == "oom-killed"
    assert told["how"] == "signal SIGKILL; the kernel killed 2 processes of this host for memory meanwhile"


def test_a_reason_without_an_instance_has_a_cause_too(scene):
    told = scene.judged(reason="the router's port 8000 of 0.0.0.0 is taken (Address already in use): end what listens there")
    assert told["cause_name"] == "port-in-use"


def test_it_is_said_when_there_was_too_much_to_read(scene, monkeypatch):
    scene.instance("ctx0", 0)
    scene.instance("ctx1", 1)
    scene.say(1, "ctx0", 0, "RuntimeError: a")
    scene.end(1.1, "ctx0", rank=0)
    scene.end(1.2, "ctx1", rank=1)
    monkeypatch.setattr("disagg_launch.runtime.signs.BUDGET_S", -1.0)
    told = scene.judged("ctx0")
    assert told["unread"] == ["ctx0", "ctx1"]
    assert "not read, for there was too much: the logs of ctx0, ctx1" in verdict.paragraphs(told)


def test_a_stop_is_no_failure(scene):
    (scene.run / "state/events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scene.events))
    told = verdict.judged(str(scene.run), "stopped", "SIGINT received", 130, "")
    assert set(told) == set(verdict.BLANK) and told["instance"] == "" and verdict.one_line(told) == "SIGINT received"


def test_a_stop_that_is_explained_days_later_was_no_time_limit(scene):
    """verdict.json was not written any more; the limit is over by now, and was far away then."""
    scene.event(1, "allocated", "", until=T0 + 3600)
    scene.event(10, "verdict", "", "SIGTERM received", state="stopped", code=143)
    scene.judged()
    assert verdict.rebuilt(str(scene.run))["cause_name"] == ""
    scene.event(3500, "verdict", "", "SIGTERM received", state="stopped", code=143)
    scene.judged()
    told = verdict.rebuilt(str(scene.run))
    assert (told["how"], told["cause_name"], told["at"]) == ("100 s before the job's time limit", "time-limit", stamp(T0 + 3500))


def test_a_gateway_that_ended_without_a_word(scene):
    scene.instance("ctx0", 0, stage="healthy")
    scene.raw("gateway", f"{stamp(T0)} plan 0123456789ab: 1 steps")
    scene.judged()
    told = verdict.rebuilt(str(scene.run))
    assert (told["instance"], told["cause_name"], told["last_lines"]) == ("gateway", "gateway-killed", ["plan 0123456789ab: 1 steps"])
    assert verdict.rebuilt(str(scene.run), "job 7: timeout (TimeLimit), exit code 0:0")["cause_name"] == "time-limit"
    # and one that was killed while it judged
    scene.say(1, "ctx0", 0, "OSError: [Errno 28] No space left on device")
    scene.end(1.1, "ctx0", rank=0)
    scene.judged()
    told = verdict.rebuilt(str(scene.run))
    assert (told["instance"], told["cause_name"]) == ("ctx0", "disk-full")
    assert told["reason"].startswith("the gateway ended without a word")


def test_words_for_people(scene):
    scene.instance("ctx0", 0)
    scene.say(1, "ctx0", 0, "OSError: [Errno 28] No space left on device")
    scene.end(1.1, "ctx0", rank=0)
    told = scene.judged("ctx0")
    said = verdict.paragraphs(told)
    assert said[0] == f"first to fail: ctx0 rank 0 on node0 (GPU 0) at {stamp(T0 + 1)}: exit code 1"
    assert said[1] == "first errors, logs/ctx0.log:\n    OSError: [Errno 28] No space left on device"
    assert said[2].startswith("likely cause: a file system is full (DC") and said[3].startswith("what to do: free some space")
    assert verdict.one_line(told).startswith("ctx0 rank 0 on node0 (GPU 0) failed first: a file system is full (DC")


def flood(scene, around):
    """ctx0 says one error a thousand times within ten seconds, once another in the midst of them, and ends."""
    scene.instance("ctx0", 0)
    for k in range(1000):
        scene.say(1 + k / 100, "ctx0", 0, f"ERROR request {k} was cancelled")
        if k == 400:
            scene.say(5.001, "ctx0", 0, around)
    scene.end(11.0, "ctx0", rank=0)


def test_of_what_is_said_again_and_again_the_first_and_the_last_are_kept(scene):
    flood(scene, around="OSError: [Errno 28] No space left on device")
    found = sieve.telling(str(scene.run / "logs/ctx0.log"), stamp(T0), "~", 1 << 20)
    texts = [one.text for one, _ in found]
    assert (
        len(texts) == 2 * sieve.KEPT + 1 and texts[0] == "ERROR request 0 was cancelled" and texts[-1] == "ERROR request 999 was cancelled"
    )
    assert [cause.name for _, cause in found if cause] == ["disk-full"]
    # of a log that is too long the end counts
    assert [one.text for one, _ in sieve.telling(str(scene.run / "logs/ctx0.log"), stamp(T0), "~", 200)][-1] == texts[-1]
    assert scene.judged("ctx0")["cause_name"] == "disk-full"


def test_a_flood_of_errors_does_not_wash_away_another(scene):
    flood(scene, around="RuntimeError: the block table is full")
    told = scene.judged("ctx0")
    assert told["first_errors"][-1] == "RuntimeError: the block table is full"


def test_lines_that_differ_in_numbers_only_are_one_kind_and_others_are_not():
    line = f"[3] {stamp(T0)} ".encode()
    kinds = [sieve.kind_of(line + text) for text in (b"OSError: [Errno 28] No space left", b"OSError: [Errno 98] Address already in use")]
    assert [kind.tells for kind in kinds] == [True, True] and kinds[1].cause.name == "port-in-use"
    assert sieve.kind_of(line + b"INFO 12 of 40 loaded") is sieve.kind_of(line + b"INFO 13 of 40 loaded")
    assert not sieve.kind_of(line + b'  File "x.py", line 3').tells
    assert sieve.kind_of(f"# ctx0 plan 0123456789ab start 1 at {stamp(T0)}".encode()).header
