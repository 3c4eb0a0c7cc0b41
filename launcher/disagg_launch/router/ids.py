"""Ids that both hops of a request have in common."""

from __future__ import annotations

import secrets
import time

_EPOCH_MS = 1_700_000_000_000
_MS_BITS, _LOW_BITS = 39, 24
# 24 bits below the milliseconds: 8 of the router, 6 of its process, and room for 1,024 ids a millisecond before the clock is run ahead of
_ROUTER_BITS, _PROCESSES, _PROCESS_AT, _ROUTER_AT = 8, 64, 10, 16
# drawn, so that two routers in front of the same workers hardly ever have the same; the processes of one router have it from their parent
_router = secrets.randbits(_ROUTER_BITS) << _ROUTER_AT
_place = _router
_last = 0


def settle(process: int) -> None:
    """From now on mint ids that no other process of this router mints, if there are no more than 64."""
    global _place
    _place = _router | process % _PROCESSES << _PROCESS_AT


def mint() -> int:
    """The next `disagg_request_id`: always growing, in [2^40, 2^63), so that it never meets a worker's own small numbers."""
    global _last
    stamp = ((time.time_ns() // 1_000_000 - _EPOCH_MS) & (1 << _MS_BITS) - 1) << _LOW_BITS
    _last = max(stamp | _place, _last + 1)
    return _last
