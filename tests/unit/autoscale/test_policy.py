"""The scaling policy: inside its limits, at rest in the cool-down, never less for more load, and still under a steady load."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disagg_launch.launch import Target
from disagg_launch.runtime.policy import Memory, Seen, Watched, wish

WINDOW_S = 30.0
LONG_AGO = Memory(-1000.0)

seconds = st.floats(0, 100)
targets = st.builds(
    lambda low, more, queue, ttft, cool, step: Target(low, low + more, queue, ttft, cool, step),
    st.integers(1, 4),
    st.integers(0, 6),
    st.sampled_from([0.1, 1.0]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 20.0, 60.0]),
    st.integers(1, 3),
)


@st.composite
def windows(draw: st.DrawFn) -> list[Seen]:
    """Looks of a role with a constant number of instances, contiguous, ending at 0."""
    count, span_s = draw(st.integers(0, 12)), draw(st.sampled_from([1.0, 5.0, 31.0]))
    looks = draw(st.integers(1, 8))
    figures = st.tuples(*[st.floats(0, 50)] * 2, *[st.floats(0, 5)] * 3, st.integers(0, 3))
    made = []
    for i in range(looks):
        requests, answered, queue_s, ttft_s, oldest_s, waiting = draw(figures)
        at_s = (i + 1 - looks) * span_s
        made.append(Seen(at_s, span_s, count, requests, queue_s, answered, ttft_s, waiting=waiting, oldest_s=oldest_s if waiting else 0))
    return made


memories = st.builds(Memory, st.floats(-200, 0), st.one_of(st.none(), st.floats(0, 20)), st.booleans())


@given(targets, windows(), memories)
def test_never_outside_the_limits_and_never_by_more_than_a_step(target: Target, window: list[Seen], memory: Memory) -> None:
    found = wish(target, window, WINDOW_S, memory).instances
    count = window[-1].instances
    if memory.in_vain and found == count and -memory.changed_s < target.cool_down_s:
        return  # it is not tried again yet
    assert target.minimum <= found <= target.maximum
    if target.minimum <= count <= target.maximum:
        assert count - 1 <= found <= count + target.step


@given(targets, windows(), memories)
def test_left_alone_in_the_cool_down(target: Target, window: list[Seen], memory: Memory) -> None:
    count = window[-1].instances
    if (memory.in_vain or target.minimum <= count <= target.maximum) and -memory.changed_s < target.cool_down_s:
        assert wish(target, window, WINDOW_S, memory).instances == count
        assert wish(target, window, WINDOW_S, memory).memory == memory


@given(targets, windows(), memories, st.lists(st.tuples(*[st.floats(1, 3)] * 4), min_size=8, max_size=8))
def test_more_load_never_means_fewer(target: Target, window: list[Seen], memory: Memory, grows: list[tuple[float, ...]]) -> None:
    """Longer waits and more requests, in whatever looks; the weights of the means are left alone, which are not load but knowledge."""
    worst = max(max(queue, ttft, oldest) for queue, ttft, oldest, _ in grows)
    more = [
        one._replace(
            queue_s=one.queue_s * worst, ttft_s=one.ttft_s * worst, oldest_s=one.oldest_s * worst, requests=one.requests * factor[3]
        )
        for one, factor in zip(window, [(0, 0, 0, grows[0][3])] * len(window))
    ]
    assert wish(target, more, WINDOW_S, memory).instances >= wish(target, window, WINDOW_S, memory).instances


@given(windows(), st.floats(0, 5), st.integers(0, 7))
def test_one_who_waits_longer_never_means_fewer(window: list[Seen], longer_s: float, waiting: int) -> None:
    target = Target(1, 20, queue_s=1.0, cool_down_s=0)
    last = window[-1]
    more = [*window[:-1], last._replace(oldest_s=last.oldest_s + longer_s, waiting=last.waiting + waiting)]
    assert wish(target, more, WINDOW_S, LONG_AGO).instances >= wish(target, window, WINDOW_S, LONG_AGO).instances


@settings(deadline=None, max_examples=60)
@given(
    targets,
    st.integers(0, 12),
    st.floats(0.1, 40),
    st.lists(st.floats(0, 2), min_size=12, max_size=12),
    st.floats(0.1, 30),
    st.sampled_from([5.0, 7.0, 30.0]),
)
def test_a_steady_load_comes_to_rest(target: Target, count: int, rate: float, waits: list[float], knee: float, interval_s: float) -> None:
    """Whatever waits follow from a rate per instance, as long as they are never shorter for a higher one: the number settles."""
    steps = sorted(waits)

    def wait_s(each: float) -> float:
        return steps[min(11, int(each / knee * 12))]

    watched, now_s, changes = Watched(), 0.0, []
    rounds = int(40 * max(target.cool_down_s, WINDOW_S, interval_s) / interval_s)
    for _ in range(rounds):
        now_s += interval_s
        slow = wait_s(rate / count) if count else 0
        seen = Seen(now_s, interval_s, count, rate * interval_s, slow, rate * interval_s, slow)
        wanted = watched.look(target, seen, WINDOW_S).instances
        if wanted != count:
            changes.append(now_s)
            count = wanted
    assert target.minimum <= count <= target.maximum
    assert all(at_s < 0.7 * now_s for at_s in changes), "it still changes"
    inside = [b - a for a, b in zip(changes[1:], changes[2:])]
    assert all(pause_s >= target.cool_down_s for pause_s in inside)


def look(count: int, wait_s: float, requests: float = 10, at_s: float = 0.0, **more: float) -> Seen:
    return Seen(at_s, WINDOW_S, count, requests, wait_s, requests, wait_s, **more)


@pytest.mark.parametrize(
    ("count", "wait_s", "wanted", "why"),
    [
        (2, 1.5, 3, "waiting for a worker 1.5 s, target 1 s"),
        (2, 90.0, 4, "waiting for a worker 90 s"),
        (5, 90.0, 5, "there are 5 already"),
        (2, 0.8, 2, "waiting for a worker 0.8 s"),
        (2, 0.2, 1, "waiting for a worker 0.2 s"),
        (1, 0.0, 1, ""),
        (7, 9.0, 5, "at most 5 are wanted"),
        (0, 0.0, 1, "at least 1 are wanted"),
    ],
)
def test_what_is_wished_and_why(count: int, wait_s: float, wanted: int, why: str) -> None:
    found = wish(Target(1, 5, queue_s=1.0, step=2), [look(count, wait_s)], WINDOW_S, LONG_AGO)
    assert (found.instances, why in found.why) == (wanted, True), found


def test_what_was_too_little_once_is_not_tried_again_at_the_same_load() -> None:
    target = Target(1, 5, queue_s=1.0)
    grown = wish(target, [look(1, 3.0, requests=60)], WINDOW_S, LONG_AGO)
    assert grown.memory.crowded == 2.0
    kept = wish(target, [look(2, 0.0, requests=60)], WINDOW_S, grown.memory)
    assert kept.instances == 2
    assert "1 would get 2 requests/s each, and 2 were too many" in kept.why
    assert wish(target, [look(2, 0.0, requests=30)], WINDOW_S, grown.memory).instances == 1
    # twice as many requests, and all is well: they have become lighter
    lighter = wish(target, [look(2, 0.0, requests=121)], WINDOW_S, grown.memory)
    assert lighter.memory.crowded is None


def test_nobody_goes_while_somebody_waits_or_before_a_whole_window_was_seen() -> None:
    target = Target(1, 5, queue_s=1.0)
    assert wish(target, [look(2, 0.0, waiting=1, oldest_s=0.1)], WINDOW_S, LONG_AGO).instances == 2
    assert wish(target, [look(2, 0.0)._replace(span_s=10)], WINDOW_S, LONG_AGO).instances == 2
    assert wish(target, [look(2, 0.0)], WINDOW_S, LONG_AGO).instances == 1


def test_one_who_waits_now_counts_before_anybody_was_answered() -> None:
    target = replace(Target(1, 5), ttft_s=1.0)
    assert wish(target, [look(1, 0.0, requests=0, waiting=1, oldest_s=4.0)], WINDOW_S, LONG_AGO).instances == 2


def test_what_was_seen_before_a_change_says_nothing() -> None:
    watched, target = Watched(), Target(1, 5, queue_s=1.0, cool_down_s=0)
    assert watched.look(target, look(1, 9.0, at_s=30), WINDOW_S).instances == 1  # nothing is known of the time before the first look
    assert watched.look(target, look(1, 9.0, at_s=60), WINDOW_S).instances == 2
    assert watched.look(target, look(2, 9.0, at_s=90), WINDOW_S).instances == 2  # it covers time in which there was one
    assert watched.look(target, look(2, 0.7, at_s=120), WINDOW_S).instances == 2


@pytest.mark.parametrize(("count", "wanted"), [(1, 3), (7, 5)])
def test_limits_that_could_not_be_kept_are_not_tried_again_at_every_look(count: int, wanted: int) -> None:
    """As when there is no room for as many as there should be at least: each try starts a process, and perhaps instances."""
    watched, target = Watched(), Target(3, 5, queue_s=1.0, cool_down_s=120)
    tries = []
    for at_s in range(0, 600, 10):
        if watched.look(target, look(count, 0.7, at_s=at_s), WINDOW_S).instances != count:
            tries.append(at_s)
            watched.changed(at_s, in_vain=True)
    assert tries == [0, 130, 260, 390, 520]
    watched.changed(600)
    assert watched.look(target, look(count, 0.7, at_s=601), WINDOW_S).instances == wanted  # somebody changed it: at once again
