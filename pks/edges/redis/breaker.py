"""A circuit breaker: after failures in a row nobody asks a server for a while, so that its loss costs each caller nothing.

Owns the states and the pauses. Knows no server; whoever asks one tells it how that went. For one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

FAILURES_MAX = 3
"""Failures in a row that open it."""

PAUSE_NS_MIN, PAUSE_NS_MAX = 200_000_000, 5_000_000_000
"""How long it stays open: doubled with each probe that fails."""


class BreakerState(IntEnum):
    """Whether a server is asked."""

    CLOSED = 1  # everybody may ask
    OPEN = 2  # nobody may
    PROBING = 3  # one has gone to look


BREAKER_MOVES = {
    BreakerState.CLOSED: {BreakerState.OPEN},
    BreakerState.OPEN: {BreakerState.PROBING},
    BreakerState.PROBING: {BreakerState.CLOSED, BreakerState.OPEN},
}
assert BREAKER_MOVES.keys() == set(BreakerState), "every state has its moves"


class Breaker:
    """Ask `allows` before each request; then say `succeeded` or `failed`, whatever happened."""

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._pause_ns = PAUSE_NS_MIN
        self._until_ns = 0

    def allows(self) -> bool:
        """May this request go out? True once for each pause that is over: that one looks whether the server is back."""
        if self.state is BreakerState.OPEN and self._monotonic_ns() >= self._until_ns:
            self._enter(BreakerState.PROBING)
            return True
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> None:
        """The server has answered."""
        self._failures = 0
        if self.state is BreakerState.PROBING:
            self._enter(BreakerState.CLOSED)
            self._pause_ns = PAUSE_NS_MIN

    def failed(self) -> None:
        """It has not."""
        self._failures += 1
        if self.state is BreakerState.PROBING:
            self._pause_ns = min(2 * self._pause_ns, PAUSE_NS_MAX)
            self._open()
        elif self.state is BreakerState.CLOSED and self._failures >= FAILURES_MAX:
            self._open()

    def _open(self) -> None:
        self._enter(BreakerState.OPEN)
        self._until_ns = self._monotonic_ns() + self._pause_ns

    def _enter(self, state: BreakerState) -> None:
        assert state in BREAKER_MOVES[self.state], f"{self.state.name} does not become {state.name}"
        self.state = state
