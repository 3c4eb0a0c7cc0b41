"""Ids that both hops of a request have in common."""

from __future__ import annotations

import os
import time

_EPOCH_MS = 1_700_000_000_000
_MS_BITS, _LOW_BITS = 39, 24
# 24 bits below the milliseconds: 8 of the node, 6 of the process, and room for 1,024 ids a millisecond before the clock is run ahead of
_PLACE = (os.getpid() & 0x3F) << 10
_last = 0


def mint(node: int = 0) -> int:
    """The next `disagg_request_id`: always growing, in [2^40, 2^63), so that it never meets a worker's own small numbers."""
    global _last
    stamp = ((time.time_ns() // 1_000_000 - _EPOCH_MS) & (1 << _MS_BITS) - 1) << _LOW_BITS
    _last = max(stamp | node << 16 | _PLACE, _last + 1)
    return _last
