"""A deployment that grows, shrinks, restarts and is upgraded while clients go on asking: no request fails and every text is right."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import EtcdServer, until
from deployment_under_load import PROMPTS, Deployment, Load, command

from disagg_launch.runtime.cluster import TOKEN_FILE
from disagg_launch.runtime.etcd import Etcd
from disagg_launch.runtime.stores import SET


@pytest.mark.parametrize("discovers", [False, True], ids=["static", "cluster"])
def test_it_changes_under_load_and_nobody_notices(start: Callable[[bool], Deployment], discovers: bool) -> None:
    deployment = start(discovers, tls=discovers)  # workers that register do so past the TLS of clients
    right = {prompt: {deployment.say(prompt)} for prompt in PROMPTS}
    there_and_back(deployment, right)
    if discovers:
        who_joins_from_another_run_is_proved_and_not_believed(deployment)
    the_only_ones_are_replaced(deployment, right)


def there_and_back(deployment: Deployment, right: dict[str, set[str]]) -> None:
    with Load(deployment) as load:
        load.more(5)
        grown = command("scale", deployment.run, "ctx=3", "gen=+2")
        assert grown.returncode == 0, grown.stderr
        assert "0 ranks move, 2 stay, 0 go, 4 come" in grown.stdout
        assert deployment.serving() == {"ctx0", "ctx1", "ctx2", "gen0", "gen1", "gen2"}
        load.more(30)
        shrunk = command("scale", deployment.run, "ctx=1", "gen=1")
        assert shrunk.returncode == 0, shrunk.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        load.more(10)
    assert load.failures == []
    assert load.texts == right


def test_one_by_one_and_what_cannot_be(start: Callable[[bool], Deployment]) -> None:
    """`restart`, `upgrade` and `remove`; wishes that cannot be granted change nothing."""
    deployment = start(False)
    before = deployment.say(PROMPTS[0])
    assert command("scale", deployment.run, "gen=+1").returncode == 0
    with Load(deployment) as load:
        done = command("restart", deployment.run, "gen0", "gen1")
        assert done.returncode == 0, done.stderr
    assert load.failures == []
    assert {text for found in load.texts.values() for text in found} >= {before}
    for words in (["gen=0"], ["gen=x"], ["ctx=-1"]):
        assert command("scale", deployment.run, *words).returncode == 2
    assert command("remove", deployment.run, "gen7").returncode == 2
    assert command("remove", deployment.run, "gen0").returncode == 0
    assert command("remove", deployment.run, "gen0").returncode == 2
    assert command("restart", deployment.run, "gen0").returncode == 2
    assert deployment.serving() == {"ctx0", "gen1"}
    assert deployment.say(PROMPTS[0]) == before
    bad = command(
        "upgrade", deployment.run, deployment.write("bigger.yaml", generation_servers={"tensor_parallel_size": 2, "num_instances": 1})
    )
    assert bad.returncode == 2
    # a context server of one model and a generation server of another make no pair, so the first new ones are not taken in
    other = command("upgrade", deployment.run, deployment.write("other.yaml", model="random:9"))
    assert other.returncode == 5
    assert "serves another model" in other.stderr
    assert deployment.say(PROMPTS[0]) == before
    broken = command("upgrade", deployment.run, deployment.write("broken.yaml", model="no-such-model"))
    assert broken.returncode == 5
    assert "ctx1 did not come up" in broken.stderr
    assert deployment.say(PROMPTS[0]) == before  # who should have stood in did not, so nobody was touched


def the_only_ones_are_replaced(deployment: Deployment, right: dict[str, set[str]]) -> None:
    """One instance of each role, and at least one of each has to serve: another stands in, under load, without a failed request."""
    pids = deployment.pids()
    with Load(deployment) as load:
        load.more(5)
        restarted = command("restart", deployment.run, "ctx0", "gen0")
        assert restarted.returncode == 0, restarted.stderr
        assert "ctx1, gen1 stands in" in restarted.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        upgraded = command("upgrade", deployment.run, deployment.write("other.yaml", max_batch_size=7))
        assert upgraded.returncode == 0, upgraded.stderr
        assert deployment.serving() == {"ctx0", "gen0"}
        removed = command("remove", deployment.run, "gen0")
        assert removed.returncode == 0, removed.stderr
        assert "gen1 is started first" in removed.stderr
        load.more(10)
    assert load.failures == []
    assert load.texts == right
    assert deployment.serving() == {"ctx0", "gen1"}
    assert not pids & deployment.pids()


def test_without_room_to_stand_in_nothing_is_touched(start: Callable[..., Deployment]) -> None:
    deployment = start(True, cluster={"nodes": 1, "gpus_per_node": 2})
    pids = deployment.pids()
    other = deployment.write("other.yaml", max_batch_size=7)
    for words in (["restart", deployment.run, "gen0"], ["remove", deployment.run, "gen0"], ["upgrade", deployment.run, other]):
        refused = command(*words)
        assert refused.returncode == 3, refused.stderr
        assert "no room for one more to stand in" in refused.stderr
        assert ("--interrupt" in refused.stderr) == (words[0] != "remove")
    assert deployment.pids() == pids
    assert command("restart", deployment.run, "gen0", "--interrupt").returncode == 0
    assert deployment.pids() != pids
    until(lambda: deployment.say(PROMPTS[0]), "an answer")


def test_the_metadata_server_forgets_a_worker_before_it_stops(start: Callable[..., Deployment], etcd: EtcdServer) -> None:
    """The safe order of TensorRT-LLM's prototype, as one command: key gone, no more requests, then the end."""
    host, _, port = etcd.endpoint.rpartition(":")
    known = {"hostname": host, "port": int(port), "refresh_interval": 0.5}
    deployment = start(False, engine={"name": "reference", "metadata_server": True}, metadata_server=known)
    store = Etcd([etcd.endpoint])
    right = {prompt: {deployment.say(prompt)} for prompt in PROMPTS}
    alive: list[bool] = []
    with Load(deployment) as load:
        assert command("scale", deployment.run, "gen=2").returncode == 0
        until(lambda: len(store.prefix("trtllm/")) == 3, "the entry of the second generation server")
        before = deployment.pids()
        stop = store.watch("trtllm/", lambda change: alive.append(running(before)) if change.kind != SET else None)
        load.more(5)
        removed = command("remove", deployment.run, "gen1")
        assert removed.returncode == 0, removed.stderr
        until(lambda: alive, "the end of its entry")
        load.more(5)
        stop()
    assert alive == [True], "it ended before its entry did"
    assert len(store.prefix("trtllm/")) == 2
    assert load.failures == []
    assert load.texts == right


def who_joins_from_another_run_is_proved_and_not_believed(deployment: Deployment) -> None:
    """As a further job does: its server is healthy and registers, but of another model, so no token passes."""
    uri = {"cluster_uri": deployment.inside, "heartbeat_interval_sec": 1, "inactive_timeout_sec": 5}
    spec = deployment.write(
        "further.yaml",
        name="further",
        model="random:9",
        context_servers={"num_instances": 0},
        cluster={"nodes": 1, "gpus_per_node": 1, "base_port": deployment.port + 280},
        router={"name": "none", "run": str(deployment.run)},
        disagg_cluster=uri,
        env={TOKEN_FILE: str(deployment.run / "state" / "token")},
    )
    right = deployment.say(PROMPTS[0])
    argv = [sys.executable, "-m", "disagg_launch", "up", str(spec), "--run", str(deployment.folder / "further")]
    joined = subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert joined.returncode == 6, joined.stderr
    assert f"gen0 ended: healthy, but no token passed with 127.0.0.1:{deployment.port + 1} -> gen0: " in joined.stderr
    assert {deployment.say(PROMPTS[0]) for _ in range(6)} == {right}


def running(pids: set[int]) -> bool:
    """Whether all of them live."""
    return all(pathlib.Path("/proc", str(pid), "stat").exists() for pid in pids)
