"""Whether those who are left are enough when the node of others is lost and no spare one is there."""

from __future__ import annotations

import pytest

from disagg_launch.plan import CONTEXT, GENERATION
from disagg_launch.runtime.stranded import short_of

TWO_AND_ONE = [("ctx0", CONTEXT), ("ctx1", CONTEXT), ("gen0", GENERATION)]


@pytest.mark.parametrize(
    ("stranded", "elsewhere", "least", "short"),
    [
        ({"ctx1"}, {}, {}, ""),
        ({"gen0"}, {}, {}, GENERATION),
        ({"ctx0", "ctx1"}, {}, {}, CONTEXT),
        ({"ctx0", "ctx1"}, {CONTEXT: 1}, {}, ""),
        ({"ctx1"}, {}, {CONTEXT: 2}, CONTEXT),
        ({"ctx1"}, {CONTEXT: 1}, {CONTEXT: 2}, ""),
        ({"ctx1"}, {}, {CONTEXT: 1, GENERATION: 2}, ""),  # what has lost nobody is not judged
        (set(), {}, {CONTEXT: 3}, ""),
    ],
)
def test_a_role_is_short_when_it_has_lost_somebody_and_too_few_are_left(stranded, elsewhere, least, short) -> None:
    assert short_of(TWO_AND_ONE, stranded, elsewhere, least) == short
