"""How often one caller may ask."""

from __future__ import annotations

from pks.bff import limits
from pks.bff.limits import RateLimit


class Watch:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_caller_has_twice_the_rate_at_once_and_then_the_rate() -> None:
    watch = Watch()
    limit = RateLimit(10, watch)
    assert [limit.wait("a") for _ in range(20)] == [0] * 20
    assert limit.wait("a") == 1
    assert limit.wait("b") == 0, "another one's own"
    watch.seconds = 0.5
    assert [limit.wait("a") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


def test_what_costs_more_waits_longer_and_no_rate_is_no_limit() -> None:
    watch = Watch()
    limit = RateLimit(10, watch)
    assert limit.wait("a", 20) == 0
    assert limit.wait("a", 15) == 2
    assert all(RateLimit(0, watch).wait("a", 10**6) == 0 for _ in range(3))


def test_callers_that_ask_no_more_are_forgotten() -> None:
    watch = Watch()
    limit = RateLimit(1, watch)
    for number in range(limits.CALLERS_MAX):
        limit.wait(str(number))
    watch.seconds = 60.0
    limit.wait("one more")
    assert len(limit._buckets) == 1
