"""A real deployment to be watched: two context workers, one generation worker of two ranks, the real router."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from free_ports import free_ports
from watched import CLI, Watched

SPEC = """\
model: "random:7"
port: {port}
max_seq_len: 512
context_servers: {{num_instances: 2}}
generation_servers: {{num_instances: 1, tensor_parallel_size: 2}}
cache_transceiver_config: {{backend: DEFAULT, max_tokens_in_buffer: 512}}
engine: {{name: reference}}
cluster: {{nodes: 1, gpus_per_node: 8, base_port: {base}}}
restart: {{on_failure: restart, backoff_s: 0.1, grace_s: 5}}
readiness: {{limit_s: 200}}
"""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """It is ready, and has answered one request."""
    folder = tmp_path_factory.mktemp("watch")
    base = free_ports(20)
    (folder / "small.yaml").write_text(SPEC.format(port=base, base=base + 1))
    with (folder / "errors").open("w") as errors:
        argv = [*CLI, "up", str(folder / "small.yaml"), "--run", str(folder / "run")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("ready: "), (folder / "errors").read_text()
    one = Watched(folder / "run", said.removeprefix("ready: ").strip(), process)
    one.ask()
    yield one
    process.send_signal(signal.SIGINT)
    process.wait(60)
    process.stdout.close()
