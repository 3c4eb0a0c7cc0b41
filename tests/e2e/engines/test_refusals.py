"""What is wrong with an engine or its arguments reaches the user as a sentence, with the exit code of the table."""

from __future__ import annotations

from collections.abc import Callable

from engine_deployments import ROOT, Ended

Up = Callable[..., Ended]
STANDARD = (ROOT / "examples/seed/standard.yaml").read_text()


def test_engine_missing_on_the_node(up: Up) -> None:
    done = up(STANDARD.replace("launch: serve", "launch: serve\n  program: /opt/trtllm/bin/trtllm-serve"))
    assert done.code == 4, done.err
    assert "/opt/trtllm/bin/trtllm-serve" in done.err


def test_key_that_the_engine_does_not_have(up: Up) -> None:
    done = up(STANDARD.replace("num_instances: 2", "num_instances: 2\n  max_batchsize: 4"))
    assert done.code == 6
    assert "spec.yaml:14:3: warning: context_servers.max_batchsize: engine trtllm is not known to have this key" in done.err
    assert "Extra inputs are not permitted" in done.err, "the engine's own words"


def test_flag_that_the_engine_does_not_have(up: Up) -> None:
    done = up(STANDARD.replace("launch: serve", "launch: serve\n  args: [--no-such-flag]"))
    assert done.code == 6
    assert "spec.yaml:21:10: warning: engine.args[0]: engine trtllm is not known to have --no-such-flag" in done.err
    assert "No such option" in done.err


def test_wrapper_that_loses_the_exit_status_hides_nothing(up: Up) -> None:
    text = STANDARD.replace("launch: serve", "launch: llmapi-launch").replace("num_instances: 2", "num_instances: 2\n  max_batchsize: 4")
    done = up(text, STANDIN_WRAPPER="early")
    assert done.code == 6
    assert "Extra inputs are not permitted" in done.err


def test_form_that_needs_one_world_on_a_backend_that_has_several(up: Up) -> None:
    done = up((ROOT / "examples/seed/mpi-worker.yaml").read_text(), "--backend", "local")
    assert done.code == 2
    assert "engine.launch: mpi-worker needs all ranks in one MPI world" in done.err
