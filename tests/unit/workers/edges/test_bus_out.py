"""Windows of BOOKING: a window of which only some messages were stored is made again with the same first and last event."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code
from pks.edges.nats.outlog import NOTHING, Mark
from pks.layouts.codes import Flag, Kind, Side
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.workers.edges.bus_out import BookingOut
from pks.workers.edges.feed import Slice

FIRST = 5
REFUSED = {6: int(Code.OVERSELL)}
"""Event 6 is told among the rejections, the others among the trades: a window that has both is two messages."""


def event(sequence: int, kind: Kind = Kind.TRADE) -> Any:
    made = np.zeros(1, EVENT)
    made["sequence"], made["kind"], made["group_count"], made["trade_id"] = sequence, kind, 1, f"t{sequence}".encode()
    made["side"], made["qty_raw"], made["price_raw"], made["flags"] = Side.BUY, 100, 200, Flag.HAS_PRICE
    return made


def slice_of(*kinds: Kind) -> Slice:
    """Events from FIRST on."""
    events = np.concatenate([event(FIRST + number, kind) for number, kind in enumerate(kinds)])
    return Slice(FIRST, FIRST + len(kinds) - 1, events, REFUSED, np.zeros(0, MATCH))


def windows(made: Slice, begun: Mark) -> list[tuple[int, int, list[int]]]:
    """(first, last, events told) of each window."""
    feed: Any = SimpleNamespace(catalogue=SimpleNamespace(get=lambda subject, row_id: SimpleNamespace(code=f"#{row_id}")))
    log: Any = None  # nothing is published
    out = BookingOut(feed, log, lambda: None)
    out._begun = begun
    found = []
    for window in out._windows(made):
        found.append((window.first, window.last, sorted(sequence for part in window.parts for sequence in part.sequences)))
        out._begun = NOTHING  # as when it is published
    return found


TRADE, TICK = Kind.TRADE, Kind.TICK


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((TRADE, TRADE), [(5, 6, [5, 6])]),
        ((TRADE, TRADE, TICK), [(5, 6, [5, 6])]),
        ((TRADE, TRADE, TRADE), [(5, 6, [5, 6]), (7, 7, [7])]),
        ((TRADE, TRADE, TICK, TRADE, TICK), [(5, 6, [5, 6]), (7, 9, [8])]),
    ],
)
def test_a_window_that_was_begun_comes_out_as_it_was(kinds: tuple[Kind, ...], expected: list[Any]) -> None:
    """Whatever has come behind it: with another last event it would be another window, and its first message be stored again."""
    assert windows(slice_of(*kinds), Mark(5, 6, 1, 2)) == expected


def test_one_that_was_not_begun_takes_all_there_is() -> None:
    assert windows(slice_of(TRADE, TRADE, TICK, TRADE, TICK), NOTHING) == [(5, 9, [5, 6, 8])]
