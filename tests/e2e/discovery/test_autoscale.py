"""A deployment whose policy makes it grow under load and shrink when that is over, without a failed request or a wrong text."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from typing import Any

from conftest import until
from deployment_under_load import PROMPTS, Deployment, Load, command

from disagg_launch.autoscale import trace

QUICK = {"interval_s": 0.3, "window_s": 1.5}
ONE_AT_A_TIME = {"options": {"max_in_flight_per_worker": 1}}


def told(deployment: Deployment) -> dict[str, Any]:
    """What `status` knows of the policy."""
    found: dict[str, Any] = json.loads(command("status", deployment.run, "--json").stdout)["autoscale"]
    return found


def test_it_grows_under_load_and_shrinks_after_it(start: Callable[..., Deployment]) -> None:
    limits = {"max": 2, "queue_s": 0.005, "cool_down_s": 1}
    deployment = start(False, autoscale={"generation_servers": limits, **QUICK}, router=ONE_AT_A_TIME)
    right = {prompt: {deployment.say(prompt)} for prompt in PROMPTS}
    with Load(deployment) as load:
        until(lambda: "gen1" in deployment.serving() or load.failures, "a second generation server")
        load.more(20)
        recorded = command("autoscale", "record", deployment.run, "--every", "0.5", "--for", "1").stdout
        assert told(deployment)["last"]["words"] == ["gen=2"]
        assert "waiting for a worker" in told(deployment)["last"]["why"]
    until(lambda: deployment.serving() == {"ctx0", "gen0"}, "its end")
    until(lambda: told(deployment)["last"]["outcome"] == "done", "the end of the change")
    assert load.failures == []
    assert load.texts == right
    said = command("status", deployment.run).stdout
    assert "autoscale gen: 1, wished 1: " in said
    assert re.search(r"autoscale at \S+: gen=1 \(gen: waiting for a worker \S+ s, target 0.005 s\): done", said), said
    looks = trace.read(recorded, "recorded")
    assert {role: sum(look[role].requests > 0 for look in looks) > 0 for role in looks[0]} == {"context": True, "generation": True}
    assert {look["generation"].instances for look in looks} == {2}
    page = urllib.request.urlopen(f"http://127.0.0.1:{deployment.port}/metrics").read().decode()
    assert float(page.partition("\ngen_queue_latency_seconds_sum ")[2].split()[0]) > 0
    told_by_gateway = (deployment.run / "logs" / "gateway.log").read_text()
    assert told_by_gateway.index("autoscale wishes gen=2") < told_by_gateway.index("autoscale wishes gen=1")


def test_a_wish_that_cannot_be_carried_out_is_said_and_changes_nothing(start: Callable[..., Deployment]) -> None:
    limits = {"max": 2, "queue_s": 0.005, "cool_down_s": 1}
    full = {"nodes": 1, "gpus_per_node": 2}
    deployment = start(False, autoscale={"generation_servers": limits, **QUICK}, router=ONE_AT_A_TIME, cluster=full)
    with Load(deployment) as load:
        until(lambda: (told(deployment)["last"] or {"outcome": ""})["outcome"].startswith("exit code 3; "), "a refusal")
    assert load.failures == []
    assert deployment.serving() == {"ctx0", "gen0"}
    until(lambda: not command("restart", deployment.run, "gen0", "--interrupt").returncode, "a change by hand beside it")
    without = deployment.write("without.yaml", autoscale=None)
    until(lambda: not command("upgrade", deployment.run, without, "--interrupt").returncode, "the end of the policy")
    assert told(deployment) is None
