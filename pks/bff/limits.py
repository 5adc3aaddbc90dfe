"""How often one caller may ask: a token bucket each, forgotten when it is full again."""

from __future__ import annotations

import math
from collections.abc import Callable

CALLERS_MAX = 10_000
"""Buckets kept at once; beyond it the full ones go, and if there is none, all are new."""


class RateLimit:
    """`rate` requests a second for each caller, twice as many at once; 0: any number."""

    def __init__(self, rate: int, now: Callable[[], float]) -> None:
        self.rate, self._now = rate, now
        self._buckets: dict[str, tuple[float, float]] = {}  # caller -> (requests left, at what time)

    def wait(self, caller: str, count: int = 1) -> int:
        """0 if the caller may go on now, else whole seconds after which to try again."""
        if not self.rate:
            return 0
        now, most = self._now(), 2.0 * self.rate
        left, at = self._buckets.get(caller, (most, now))
        left = min(most, left + (now - at) * self.rate)
        if left < count:
            self._buckets[caller] = (left, now)
            return math.ceil((count - left) / self.rate)
        if caller not in self._buckets and len(self._buckets) >= CALLERS_MAX:
            self._forget(now, most)
        self._buckets[caller] = (left - count, now)
        return 0

    def _forget(self, now: float, most: float) -> None:
        self._buckets = {caller: (left, at) for caller, (left, at) in self._buckets.items() if left + (now - at) * self.rate < most}
        if len(self._buckets) >= CALLERS_MAX:
            self._buckets.clear()
