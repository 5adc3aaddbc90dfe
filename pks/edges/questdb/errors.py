"""What can go wrong with a store of time series, grouped by what its edge does about it.

RowsRefused: set the rows aside and go on. TableLost, StoreChanged: connect again. StoreAhead: a person must look.
"""

from __future__ import annotations

from pks.base.errors import Fatal, PksError, Retryable


class RowsRefused(PksError):
    """A server does not take rows because of what is in them."""

    def __init__(self, store: str, rows: int, reason: str) -> None:
        super().__init__(f"{store} refuses {rows} row(s): {reason}")
        self.store, self.rows, self.reason = store, rows, reason


class TableLost(Retryable):
    """The table is not what it was when it was opened: it was dropped, or the server does not apply what it has taken."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store}: table bo_positions {reason}")
        self.store, self.reason = store, reason


class StoreAhead(Fatal):
    """The store has rows of events that this journal does not have: they are another system's."""

    def __init__(self, store: str, cursor: int, last: int) -> None:
        super().__init__(f"{store} has rows up to event {cursor}, this journal ends at {last}: they are another system's")
        self.store, self.cursor, self.last = store, cursor, last


class StoreChanged(Retryable):
    """Another store is to be used from now on."""

    def __init__(self, before: str, now: str) -> None:
        super().__init__(f"time series go to {now} from now on, no longer to {before}")
        self.before, self.now = before, now
