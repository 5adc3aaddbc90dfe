"""Reference data as a worker that books reads it: a catalogue and a border, kept up with what capture has defined.

Owns the reading of definitions from the journal, only what is durable, and the defining of a source that is named for the first time.
Called in the worker's event loop by those who have an intake ring.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from pks.base.errors import Code, Refused
from pks.engine.booking.border import Border
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Source
from pks.engine.instruments.events import catalogue_of, definition_event
from pks.layouts.codes import Subject
from pks.segments.journal_view import JournalView
from pks.workers.edges.intake import OwnIntake
from pks.workers.runtime import Context

SOURCES_MAX = 256
"""Sources beyond which nobody defines a new one by naming it: they have their rows for ever, and others may write what they like."""

DURABLE_LOOK_SECONDS = 0.002

MENDED_BY_LEARNING = frozenset({
    Code.UNKNOWN_BOOK, Code.UNKNOWN_INSTRUMENT, Code.UNKNOWN_ACCOUNT, Code.UNKNOWN_CURRENCY, Code.OVER_PRECISE,
})  # fmt: skip
"""Refusals that reference data younger than ours may lift."""


class Reference:
    """What is known of books, instruments, accounts and sources. `learned`: the youngest definition."""

    def __init__(self, context: Context) -> None:
        self._host = context.host
        self._view = JournalView(context.paths.journal)
        self.catalogue, self.border, self.learned = Catalogue(), Border(Catalogue()), -1

    async def learn(self) -> None:
        """Read reference data, when there is more than we know; waits until it is durable."""
        rows = self._host.refdata.snapshot()
        newest = int(rows["definition_sequence"].max()) if len(rows) else 0
        if newest == self.learned:
            return
        while self._host.durable_sequence < newest:
            await asyncio.sleep(DURABLE_LOOK_SECONDS)
        self._view.refresh()
        self.catalogue = catalogue_of(self._view.records, rows)
        self.border, self.learned = Border(self.catalogue), newest

    async def know_source(self, code: str, intake: OwnIntake) -> None:
        """Define a source that is named for the first time. Raises Refused."""
        if not code or self.catalogue.id_of(Subject.SOURCE, code):
            return
        await self.learn()
        if self.catalogue.id_of(Subject.SOURCE, code):
            return
        if len(self.catalogue.ids(Subject.SOURCE)) >= SOURCES_MAX:
            raise Refused(Code.OUT_OF_RANGE, "source", code, f"{SOURCES_MAX} sources are known; another one is defined by hand")
        reply = await (await intake.send(definition_event(Source(code=code))))
        if int(reply["code"]) not in (Code.ACCEPTED, Code.DUPLICATE):
            raise Refused(Code(int(reply["code"])), "source", code)
        await self.learn()

    async def group_of(self, row: Any, intake: OwnIntake) -> Any:
        """EVENT[n] of a row; reference data is read again before something counts as unknown. Raises Refused."""
        await self.know_source(self.border.source_of(row), intake)
        try:
            return self.border.group_of(row)
        except Refused as error:
            if error.code not in MENDED_BY_LEARNING:
                raise
            before = self.learned
            await self.learn()
            if before == self.learned:
                raise
            return self.border.group_of(row)


def words(pair: tuple[int, int]) -> tuple[np.uint64, np.uint64]:
    """A 128-bit key as an EVENT's two words."""
    mask = (1 << 64) - 1
    return np.uint64(pair[0] & mask), np.uint64(pair[1] & mask)
