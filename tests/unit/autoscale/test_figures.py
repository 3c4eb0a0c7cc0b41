"""From two readings of the front door to what was seen between them."""

from __future__ import annotations

from disagg_launch.runtime.figures import between

BEFORE = {"ready": 2, "active": 1, "waiting": 0, "oldest_s": 0.0, "taken": 10, "queue_s": 1.0, "answered": 8, "ttft_s": 4.0}
BEFORE |= {"completed": 8, "busy_s": 16.0}


def test_counts_and_means_of_the_time_between() -> None:
    after = {**BEFORE, "active": 3, "waiting": 2, "oldest_s": 0.7, "taken": 14, "queue_s": 3.0, "answered": 10, "ttft_s": 5.0}
    seen = between(BEFORE, after, 20.0, 5.0, 2)
    assert (seen.at_s, seen.span_s, seen.instances) == (20.0, 5.0, 2)
    assert (seen.requests, seen.queue_s, seen.answered, seen.ttft_s) == (4, 0.5, 2, 0.5)
    assert (seen.completed, seen.busy_s) == (0, 0)
    assert (seen.active, seen.waiting, seen.oldest_s) == (3, 2, 0.7)


def test_a_front_door_that_began_anew_counts_from_nothing() -> None:
    after = {**BEFORE, "taken": 3, "queue_s": 0.6, "answered": 3, "ttft_s": 0.3, "completed": 2, "busy_s": 1.0}
    seen = between(BEFORE, after, 20.0, 5.0, 2)
    assert (seen.requests, round(seen.queue_s, 6), round(seen.ttft_s, 6), seen.completed, seen.busy_s) == (3, 0.2, 0.1, 2, 0.5)
