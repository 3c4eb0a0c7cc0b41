"""Continuous batching, bounds, and the freeing of what nobody wants any more."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from in_process import LIMITS, Instance

from disagg_launch.reference import kv
from disagg_launch.reference.models import Model
from disagg_launch.reference.request import Delta, Refused
from disagg_launch.reference.sampling import Sampling
from disagg_launch.reference.ticket import Holder, Ticket

PROMPTS = [[random.Random(n).randrange(256) for _ in range(3 + 7 * n)] for n in range(12)]


@pytest.fixture(scope="module")
def generation(model: Model) -> Iterator[Instance]:
    """A generation worker of one rank."""
    instance = Instance(model, exports=None)
    yield instance
    instance.close()


def until(condition: Callable[[], bool]) -> bool:
    """True once the condition holds; False if it does not within half a minute."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_a_batch_answers_like_one_after_the_other(whole: Instance) -> None:
    single = [whole.answer(prompt).tokens for prompt in PROMPTS]
    together = [whole.ask(prompt) for prompt in PROMPTS]  # more than fit the batch, joining and leaving at different times
    assert [asked.answer().tokens for asked in together] == single
    assert whole.scheduler.load == 0


def test_sampling_is_fixed_by_its_seed_also_across_a_hand_over(whole: Instance, generation: Instance) -> None:
    how = [Sampling(temperature=1.2, top_p=0.9, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (whole.answer(PROMPTS[2], sampling=one).tokens for one in how)
    assert first == again != other
    (handed,) = whole.hand_over([PROMPTS[2]], generation, sampling=how[0])
    assert handed.tokens == first


def test_the_end_says_why(whole: Instance) -> None:
    answer = whole.answer(PROMPTS[0], 9)
    assert (answer.last.finish, len(answer.tokens)) == ("length", 9)
    stopped = whole.answer(PROMPTS[0], 9, stop_tokens=frozenset({answer.tokens[4]}))
    end = answer.tokens.index(answer.tokens[4])
    assert (stopped.last.finish, stopped.tokens) == ("stop", answer.tokens[: end + 1])


def test_a_stop_string_ends_the_text_before_it(whole: Instance) -> None:
    full = whole.answer(PROMPTS[1], 20)
    stop = full.text[3:5]
    answer = whole.answer(PROMPTS[1], 20, stops=(stop,))
    assert answer.text == full.text[: full.text.index(stop)]
    assert answer.last.finish == "stop"


def test_a_sequence_ends_at_the_longest_length(whole: Instance) -> None:
    answer = whole.answer([1] * 120, 500)
    assert (answer.last.finish, len(answer.tokens)) == ("length", LIMITS.sequence - 120)


@pytest.mark.parametrize(
    ("change", "prompt", "more", "reason"),
    [
        ({}, [], {}, "empty"),
        ({}, [1] * 128, {}, "128 tokens: at most 127 fit"),
        ({"pool": 50}, [1] * 40, {"limit": 30}, "needs 70 tokens of KV cache, the pool has 50"),
        ({"buffer": 30}, [1] * 40, {"context_only": True}, r"40 tokens, the transfer buffer \(max_tokens_in_buffer\) holds 30"),
        ({}, [1, 2], {"ticket": Ticket(1, "", 2, "other", ()), "first": (1,)}, "another model"),
    ],
)
def test_what_can_never_be_served_is_refused(
    whole: Instance, monkeypatch: pytest.MonkeyPatch, change: dict[str, int], prompt: list[int], more: dict[str, object], reason: str
) -> None:
    monkeypatch.setattr(whole.scheduler, "limits", replace(LIMITS, **change))
    with pytest.raises(Refused, match=reason):
        whole.ask(prompt, **more)


def test_a_ticket_for_another_prompt_is_refused(whole: Instance, generation: Instance) -> None:
    ticket = whole.answer([1, 2, 3], context_only=True).last.ticket
    assert ticket
    with pytest.raises(Refused, match="holds 3 tokens, the prompt has 4"):
        generation.ask([1, 2, 3, 4], ticket=ticket, first=(1,))
    kv.release(ticket)
    assert until(lambda: whole.kept() == 0)


def test_cancelling_frees_running_and_waiting_requests_also_during_the_prompt(model: Model) -> None:
    instance = Instance(model, limits=replace(LIMITS, batch=1, iteration=1, pool=200))
    try:
        running, waiting = instance.ask([1] * 120, 8), instance.ask([2] * 4, 8)
        for asked in (running, waiting):
            instance.scheduler.cancel(asked.number)
        assert until(lambda: instance.scheduler.load == 0 and not instance.ranks[0]._caches)
        assert running.deltas.empty() and waiting.deltas.empty()
        assert len(instance.answer([3] * 4, 8).tokens) == 8
    finally:
        instance.close()


def test_the_pool_makes_requests_wait_not_fail(model: Model) -> None:
    instance = Instance(model, limits=replace(LIMITS, pool=40))
    try:
        asked = [instance.ask([n] * 10, 20) for n in range(6)]
        assert all(len(one.answer().tokens) == 20 for one in asked)
        assert max(stats["kvCacheStats"]["usedNumBlocks"] for stats in instance.scheduler.stats) <= 40
    finally:
        instance.close()


def test_the_transfer_buffer_makes_context_requests_wait_until_one_is_freed(model: Model) -> None:
    instance = Instance(model, limits=replace(LIMITS, buffer=25))
    try:
        tickets = [instance.answer([n] * 10, context_only=True).last.ticket for n in range(2)]
        third = instance.ask([3] * 10, context_only=True)
        assert len(instance.answer([4] * 10, 5).tokens) == 5  # others are served meanwhile
        assert third.deltas.empty() and instance.kept() == 2
        assert tickets[0]
        kv.release(tickets[0])
        assert third.answer().last.ticket
        assert instance.kept() == 2
    finally:
        instance.close()


def test_a_context_request_that_ends_with_its_first_token_keeps_nothing(whole: Instance) -> None:
    first = whole.answer(PROMPTS[3], 1).tokens[0]
    answer = whole.answer(PROMPTS[3], 8, context_only=True, stop_tokens=frozenset({first}))
    assert (answer.last.finish, answer.last.ticket) == ("stop", None)
    assert until(lambda: whole.kept() == 0)


def test_cancelling_a_finished_context_request_frees_its_cache(whole: Instance) -> None:
    asked = whole.ask(PROMPTS[3], context_only=True)
    assert asked.answer().last.ticket
    assert whole.kept() == 1
    whole.scheduler.cancel(asked.number)
    assert until(lambda: whole.kept() == 0)


def test_an_answer_that_is_complete_needs_no_cache_and_frees_it(whole: Instance, generation: Instance) -> None:
    ticket = whole.answer(PROMPTS[4], 1, context_only=True).last.ticket
    assert ticket
    unreachable = replace(ticket, holders=(replace(ticket.holders[0], rect=replace(ticket.holders[0].rect, layer1=0)),))
    answer = generation.answer(PROMPTS[4], 1, ticket=unreachable, first=(65,))
    assert (answer.tokens, answer.last.finish) == ([65], "length")
    assert until(lambda: whole.kept() == 0)


def test_a_failed_pull_fails_its_request_only_and_frees_the_other_side(whole: Instance, generation: Instance) -> None:
    ticket = whole.answer(PROMPTS[5], context_only=True).last.ticket
    assert ticket
    gap = replace(ticket, holders=(replace(ticket.holders[0], rect=replace(ticket.holders[0].rect, layer1=2)),))
    other = generation.ask(PROMPTS[1], 20)
    failed = generation.answer(PROMPTS[5], ticket=gap, first=(1,))
    assert failed.last.status == 500 and "do not cover" in failed.last.error
    assert len(other.answer().tokens) == 20
    assert until(lambda: whole.kept() == 0 and generation.scheduler.load == 0)


def test_a_silent_peer_does_not_stall_the_batch_and_a_cancelled_pull_is_forgotten(model: Model, generation: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        holder = Holder("127.0.0.1", silent.getsockname()[1], generation.ranks[0].place.rect)
        stuck = generation.ask([1, 2], ticket=Ticket(9, "00", 2, model.fingerprint, (holder,)), first=(1,))
        assert len(generation.answer(PROMPTS[6], 30).tokens) == 30
        assert stuck.deltas.empty()
        generation.scheduler.cancel(stuck.number)
        assert until(lambda: generation.scheduler.load == 0)
        assert len(generation.answer(PROMPTS[6], 30).tokens) == 30
        assert stuck.deltas.empty()


def test_a_rank_that_fails_fails_all_requests(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance(model, 2, 2)
    asked = [instance.ask(prompt, 100) for prompt in PROMPTS[:3]]
    for one in asked:
        one.next()

    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(instance.ranks[3]._stage, "layers", broken)
    assert all("failed" in one.answer().last.error for one in asked)
    late = instance.answer([1, 2]).last
    assert (late.status, "failed" in late.error) == (500, True)  # not the request's own fault: a router may ask elsewhere
    instance.close()


def test_a_lost_rank_also_fails_those_whom_the_stuck_loop_has_not_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Instance(model, 2)
    stuck, go, layers = threading.Event(), threading.Event(), instance.ranks[1]._stage.layers

    def waits(*given: object) -> object:
        stuck.set()
        go.wait(60)
        return layers(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(instance.ranks[1]._stage, "layers", waits)
    instance.ask([1, 2], 100)
    assert stuck.wait(30)
    unseen = instance.ask([3, 4])
    instance.scheduler.lose("rank 1 is gone")
    assert unseen.answer().last == Delta(error="rank 1 is gone", status=500)
    go.set()
    instance.close()


def test_stopping_fails_what_is_under_way(model: Model) -> None:
    instance = Instance(model)
    asked = instance.ask([1] * 10, 100)
    asked.next()
    instance.close()
    assert "stopping" in asked.answer().last.error
