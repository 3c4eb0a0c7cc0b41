"""Instances of several MPI ranks under a real mpiexec: hand-over between layouts, idle ranks, lost ranks, an orderly end."""

from __future__ import annotations

import queue
import signal
import threading
import time

import psutil
import pytest
import requests
from worker_process import Start, Worker

from disagg_launch.reference.models import Model

pytestmark = pytest.mark.mpi

PROMPT = "Alice was beginning to"


def ranks(worker: Worker) -> list[psutil.Process]:
    """The Python processes of an instance, leader first."""
    found = [p for p in psutil.Process(worker.process.pid).children(recursive=True) if p.name().startswith("python")]
    port = int(worker.url.rsplit(":", 1)[1])
    return sorted(found, key=lambda p: port not in [c.laddr.port for c in p.net_connections() if c.status == psutil.CONN_LISTEN])


@pytest.fixture(scope="module")
def whole(start: Start, glass: Model) -> Worker:
    """One rank that serves everything."""
    return start("glass-en").until_ready()


@pytest.mark.parametrize(
    ("context", "generation"), [((2, 1), (1, 2)), ((2, 2), (2, 1)), ((1, 2), (4, 1))], ids=["tp2-pp2", "tp2pp2-tp2", "pp2-tp4"]
)
def test_hand_over_between_instances_of_several_ranks(
    start: Start, whole: Worker, context: tuple[int, int], generation: tuple[int, int]
) -> None:
    def flags(layout: tuple[int, int]) -> list[str]:
        return ["--tp_size", str(layout[0]), "--pp_size", str(layout[1])]

    first = start("glass-en", *flags(context), "--server_role", "CONTEXT", ranks=context[0] * context[1])
    second = start("glass-en", *flags(generation), "--server_role", "GENERATION", ranks=generation[0] * generation[1])
    first.until_ready()
    second.until_ready()
    expected = whole.complete(PROMPT)["choices"][0]["text"]
    answer = first.complete(PROMPT, disaggregated_params={"request_type": "context_only"})
    params = answer["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
    handed = second.complete(answer["prompt_token_ids"], disaggregated_params=params)
    assert handed["choices"][0]["text"] == expected
    assert [first.end(), second.end()] == [0, 0]


def test_an_idle_instance_burns_no_core(start: Start, whole: Worker) -> None:
    worker = start("glass-en", "--tp_size", "2", ranks=2).until_ready()
    worker.complete(PROMPT)
    processes = ranks(worker)

    def used_s() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    before, began = used_s(), time.monotonic()
    time.sleep(2)
    # a rank that waits in a blocking MPI receive uses a whole core
    assert used_s() - before < 0.4 * (time.monotonic() - began)
    assert worker.end() == 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_fails_its_requests_and_ends_the_instance(start: Start, victim: int) -> None:
    worker = start("random:1,layers=12,head_size=64,hidden=2048,context=4096", "--tp_size", "2", ranks=2).until_ready()
    begun, ended = threading.Event(), queue.SimpleQueue()

    def ask() -> None:
        body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        text = ""
        try:
            with requests.post(worker.url + "/v1/completions", json=body, stream=True, timeout=60) as response:
                for line in response.iter_lines():
                    begun.set()
                    text = line.decode() or text
        except requests.RequestException as broken:
            text = f"broken: {broken}"
        ended.put(text)

    threading.Thread(target=ask).start()
    assert begun.wait(60)
    left = ranks(worker)
    left[victim].send_signal(signal.SIGKILL)
    assert worker.process.wait(60) != 0
    assert "[DONE]" not in ended.get(timeout=60)
    assert not psutil.wait_procs(left, timeout=30)[1]


FAULT = """
import sys
from mpi4py import MPI
from disagg_launch.reference import serve
from disagg_launch.reference.rank import Rank
right = Rank._compute
def wrong(self, rows):
    if self.comm.rank == {rank} and rows[0].start > 5:
        raise RuntimeError("injected")
    return right(self, rows)
Rank._compute = wrong
sys.exit(serve.run(sys.argv[1:], MPI.COMM_WORLD))
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_with_an_error_fails_its_requests_and_ends_the_instance(start: Start, rank: int) -> None:
    worker = start("random:1", "--tp_size", "2", ranks=2, program=("-c", FAULT.format(rank=rank))).until_ready()
    left = ranks(worker)
    response = worker.post("/v1/completions", prompt="a", max_tokens=100, ignore_eos=True)
    assert response.status_code == 500
    who = "the model loop" if rank == 0 else "rank 1 of this instance"
    assert response.json()["message"] == f"{who} failed: RuntimeError: injected"
    assert worker.process.wait(60) == 1
    assert not psutil.wait_procs(left, timeout=30)[1]


def test_a_wrong_number_of_ranks_ends_all_of_them(start: Start) -> None:
    worker = start("random:1", "--tp_size", "2", ranks=3)
    assert worker.process.wait(60) == 71
    assert "needs 2 ranks, 3 found" in worker.log.read_text()
