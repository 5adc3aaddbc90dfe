"""A shard together with the reference data that it needs: what every process uses that folds events into positions.

Used by the accumulators (live), the shadow (from the journal), recovery, and every as-of question. Publishes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Book, ClassMethod, Instrument
from pks.engine.instruments.events import learn_definition
from pks.engine.instruments.rows import DATE_FIRST, book_policy, instrument_policy, method_change
from pks.engine.lots.shard import Shard, new_shard
from pks.engine.lots.state import Results
from pks.layouts.codes import Kind
from pks.layouts.detail import group_at

CARRIED_INSTRUMENT = ("chain", "last_action_date", "first_key")


class Positions:
    """Positions of one shard (or of all) as of the last event applied, and the catalogue at that event."""

    def __init__(self, records: Any, mask: int = -1, *, index: int = 0, shards: int = 1, keys: int = 1 << 10, lots: int = 1 << 12) -> None:
        self.catalogue = Catalogue()
        self.shard: Shard = new_shard(records, mask, keys=keys, lots=lots, index=index, shards=shards)
        self.shard.refdata = self._reference
        self._events, self._mask = records, mask

    def apply(self, events: Any, mask: int, first: int, last: int, taken: Callable[[Results], None] | None = None) -> None:
        """Apply events first..last (event n at events[n & mask]); `taken` sees the results as they come."""
        self._events, self._mask = events, mask
        if taken is not None:
            self.shard.taken = taken
        self.shard.apply(events, mask, first, last)

    def attend(self, events: Any, mask: int, following: int, reason: int) -> int:
        """Do what a kernel stopped for at event `following` of the same array; the event to go on with."""
        self._events, self._mask = events, mask
        return self.shard.attend(events, mask, following, reason)

    def _reference(self, e: Any) -> None:
        if int(e["kind"]) != Kind.REFDATA:
            return
        group = group_at(self._events, self._mask, int(e["sequence"]))
        _, row_id, definition = learn_definition(self.catalogue, group)
        self.take_definition(row_id, definition, int(e["sequence"]), int(e["effective_date"]))

    def take_definition(self, row_id: int, definition: AnyDefinition, sequence: int, date: int) -> None:
        """Let a definition that is in the catalogue change the policies. `date`: from which a lot method holds, 0 is since ever."""
        state = self.shard.state
        if isinstance(definition, Instrument):
            self._room("instruments", row_id)
            state = self.shard.state
            old = state.instruments[row_id].copy()
            state.instruments[row_id] = instrument_policy(definition, self.catalogue)[0]
            if old["known"]:
                for name in CARRIED_INSTRUMENT:
                    state.instruments[row_id][name] = old[name]
                self.shard.rescale(row_id, old)
        elif isinstance(definition, Book):
            self._room("books", row_id)
            state = self.shard.state
            old = state.books[row_id].copy()
            state.books[row_id] = book_policy(definition, self.catalogue)[0]
            if old["known"]:
                state.books[row_id]["first_key"] = old["first_key"]
            self._method(definition, date or DATE_FIRST, sequence)
        elif isinstance(definition, ClassMethod):
            self._method(definition, date or DATE_FIRST, sequence)

    def _method(self, definition: AnyDefinition, date: int, sequence: int) -> None:
        change = method_change(definition, self.catalogue, date, sequence)
        assert change is not None, "a book or a class method"
        row = change[0]
        self.shard.change_method(int(row["book_id"]), int(row["asset_class_id"]), int(row["method"]), int(row["effective_date"]), sequence)

    def _room(self, table: str, row_id: int) -> None:
        rows = getattr(self.shard.state, table)
        if row_id >= len(rows):
            longer = np.zeros(max(2 * len(rows), row_id + 1), rows.dtype)
            longer["first_key"] = -1
            longer[: len(rows)] = rows
            self.shard.state = self.shard.state._replace(**{table: longer})
