"""The circuit breaker: all moves, and how long it keeps quiet."""

from __future__ import annotations

import pytest

from pks.base.clock import ManualClock
from pks.edges.redis.breaker import BREAKER_MOVES, FAILURES_MAX, PAUSE_NS_MAX, PAUSE_NS_MIN, Breaker, BreakerState


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0)


@pytest.fixture
def breaker(clock: ManualClock) -> Breaker:
    return Breaker(clock.monotonic_ns)


def trip(breaker: Breaker) -> None:
    for _ in range(FAILURES_MAX):
        assert breaker.allows()
        breaker.failed()


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not_count_on(breaker: Breaker) -> None:
    for _ in range(FAILURES_MAX - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES_MAX - 1):
        breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows()


def test_one_probe_a_pause_and_pauses_grow_to_a_bound(breaker: Breaker, clock: ManualClock) -> None:
    trip(breaker)
    pause = PAUSE_NS_MIN
    for _ in range(12):
        clock.advance(pause - 1)
        assert not breaker.allows()
        clock.advance(1)
        assert breaker.allows()
        assert not breaker.allows(), "one looks, the others do not wait for it"
        breaker.failed()
        pause = min(2 * pause, PAUSE_NS_MAX)
    clock.advance(pause)
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    trip(breaker)
    clock.advance(PAUSE_NS_MIN)
    assert breaker.allows(), "after a success the pause is the short one again"


@pytest.mark.parametrize("before", BreakerState)
@pytest.mark.parametrize("after", BreakerState)
def test_every_move_is_in_the_table_or_refused(breaker: Breaker, before: BreakerState, after: BreakerState) -> None:
    breaker.state = before
    if after in BREAKER_MOVES[before]:
        breaker._enter(after)
        assert breaker.state is after
    else:
        with pytest.raises(AssertionError):
            breaker._enter(after)
