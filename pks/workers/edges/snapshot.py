"""Positions of the shadow into Postgres: `back_office.position_snapshot` as of one event, beside the fold and never in its way.

Owns a thread with an event loop and a connection of its own in the shadow's process, and what is under way to it. The fold hands over
copies of keys that differ from what the database has; while a write is under way, or Postgres is down, nothing is copied. What the database
has is asked from it at each connect, so a wiped one is filled again. The fold may not wait for the thread, nor the thread touch the fold.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from pks.engine.lots.extract import extract, plain_keys
from pks.engine.lots.snapshot import export_rest
from pks.engine.lots.state import DIRTY_COUNT, KEYS_COUNT
from pks.engine.positions.view import PositionTerms
from pks.layouts.codes import Subject
from pks.layouts.state import KEY
from pks.segments.journal_view import JournalView
from pks.servers.endpoints import Endpoint, endpoint, mode_of
from pks.workers.checkpoint import moved_arrays
from pks.workers.positions import Positions
from pks.workers.runtime import Context

PAUSE_NS_MIN = 1_000_000_000
"""Between two copies; people look at these rows, machines at the slots."""

PAUSE_FACTOR = 4
"""A write that took long is followed by a pause so many times as long."""

RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 10.0
CLOSE_SECONDS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the database has, from the thread: its cursor, that event's checksum, and every KEY that is there."""

    connection: int  # number of the connection
    cursor: int
    checksum: int
    keys: Any  # KEY[n]


@dataclass(frozen=True, slots=True)
class Package:
    """Copies for the thread: keys that differ, with lots and accounts as `extract` gives them, and the rest of the fold."""

    connection: int  # for which it was made; another one has other cursors
    before: int  # the cursor that the database has
    sequence: int
    checksum: int
    instance: str
    places: Any  # int64[n]: the keys' rows in the fold
    keys: Any  # KEY[n], LINKS cleared
    parts: dict[str, Any]
    rest: dict[str, Any]
    terms: list[PositionTerms | None]  # None: no position yet


class Snapshots:
    """The fold's side. All methods are called by the shadow's own thread."""

    def __init__(self, context: Context, positions: Positions, view: JournalView) -> None:
        self.context, self.positions, self.view = context, positions, view
        self._to: queue.SimpleQueue[Package | None] = queue.SimpleQueue()
        self._from: queue.SimpleQueue[Known | int | str] = queue.SimpleQueue()
        self._there: Any = None  # KEY[n] by row of the fold, what the database has; zeros where it has none
        self._known: Known | None = None
        self._under_way: Package | None = None
        self._said: Known | int | str = ""
        self._began_ns = self._next_ns = 0
        self._terms: dict[tuple[int, int], PositionTerms] = {}
        self._terms_of = -1  # the catalogue's last sequence that they were made at
        self._currencies: dict[int, str] = {}
        self.cursor_gauge = context.cells.gauge("snapshot_cursor")
        self._thread = threading.Thread(target=_run, args=(context.config, self._to, self._from), name="snapshots", daemon=True)
        self._thread.start()

    def turn(self, sequence: int, reentries: list[tuple[int, int]]) -> None:
        """Hear the thread; hand over what differs, if it is time. sequence: of the fold's last event."""
        self._hear()
        now = self.context.clock.monotonic_ns()
        if self._known is None or self._under_way is not None or now < self._next_ns or sequence == self._known.cursor:
            return
        if not sequence or self.positions.shard.state.meta[DIRTY_COUNT] or not self._is_ours(sequence):
            return
        self._began_ns = now
        self._under_way = self._package(sequence, reentries)
        self._to.put(self._under_way)

    def _hear(self) -> None:
        while not self._from.empty():
            said = self._from.get()
            if isinstance(said, Known):
                self._known, self._there, self._under_way = said, None, None
                self.context.log.info("snapshots go to postgres", cursor=said.cursor, keys=len(said.keys))
            elif isinstance(said, int):
                self._written(said)
            else:
                self._known, self._there, self._under_way = None, None, None
                if said != self._said:
                    self.context.log.warning("no snapshots", error=said)
            self._said = said

    def _written(self, sequence: int) -> None:
        package, self._under_way = self._under_way, None
        assert package is not None and package.sequence == sequence, "one package at a time"
        self._there[package.places] = package.keys
        self._known = Known(package.connection, sequence, package.checksum, self._there[:0])
        self.cursor_gauge.set(sequence)
        now = self.context.clock.monotonic_ns()
        self._next_ns = now + max(PAUSE_NS_MIN, PAUSE_FACTOR * (now - self._began_ns))

    def _is_ours(self, sequence: int) -> bool:
        """Is the event that the database is at one of this journal? Not yet, when the fold is not so far."""
        assert self._known is not None, "connected"
        known = self._known
        if known.cursor > sequence:
            return False
        if known.cursor and self._checksum(known.cursor) != known.checksum:
            self._known = None
            self.context.log.error("the positions in postgres are of another journal", cursor=known.cursor)
            return False
        return True

    def _checksum(self, sequence: int) -> int:
        return int(self.view.records[sequence : sequence + 1]["checksum"].view("<i8")[0])

    def _package(self, sequence: int, reentries: list[tuple[int, int]]) -> Package:
        state = self.positions.shard.state
        assert self._known is not None, "connected"
        keys = plain_keys(state, int(state.meta[KEYS_COUNT]))
        there = self._there_now(keys)
        places = np.flatnonzero((_words(keys) != _words(there)).any(axis=1))
        chosen = keys[places]
        known = self._known
        rest = export_rest(state) | moved_arrays(self.positions, reentries)
        return Package(
            known.connection,
            known.cursor,
            sequence,
            self._checksum(sequence),
            self.context.config.instance,
            places,
            chosen,
            extract(state, places),
            rest,
            self._terms_for(chosen),
        )

    def _there_now(self, keys: Any) -> Any:
        """KEY[len(keys)]: what the database has of each row of the fold."""
        assert self._known is not None, "connected"
        if self._there is None:
            self._there = np.zeros(len(keys), KEY)
            ours, theirs = _names(keys), _names(self._known.keys)
            order = np.argsort(theirs)
            if len(theirs):
                at = np.minimum(np.searchsorted(theirs, ours, sorter=order), len(theirs) - 1)
                same = theirs[order[at]] == ours
                self._there[same] = self._known.keys[order[at[same]]]
        if len(self._there) < len(keys):
            longer = np.zeros(max(len(keys), 2 * len(self._there)), KEY)
            longer[: len(self._there)] = self._there
            self._there = longer
        return self._there[: len(keys)]

    def _terms_for(self, keys: Any) -> list[PositionTerms | None]:
        catalogue = self.positions.catalogue
        if self._terms_of != catalogue.last_sequence:
            self._terms, self._terms_of = {}, catalogue.last_sequence
            self._currencies = {row_id: one.code for row_id, one in catalogue.rows(Subject.CURRENCY)}
        made: list[PositionTerms | None] = []
        for book_id, instrument_id, last in zip(
            *(keys[name].tolist() for name in ("book_id", "instrument_id", "last_sequence")), strict=True
        ):
            made.append(self._terms_of_key(book_id, instrument_id) if last else None)
        return made

    def _terms_of_key(self, book_id: int, instrument_id: int) -> PositionTerms:
        terms = self._terms.get((book_id, instrument_id))
        if terms is None:
            catalogue = self.positions.catalogue
            book, instrument = catalogue.book(book_id), catalogue.instrument(instrument_id)
            factor, currency = instrument.money_factor, instrument.pnl_currency
            terms = self._terms[book_id, instrument_id] = PositionTerms(
                book.code, instrument.code, currency, catalogue.id_of(Subject.CURRENCY, currency), factor.numerator, factor.denominator,
                book.fees_in_cost, self._currencies,
            )  # fmt: skip
        return terms

    def close(self) -> None:
        """End the thread, after what is under way; it is a daemon and does not hold up the process."""
        self._to.put(None)
        self._thread.join(CLOSE_SECONDS_MAX)


def _names(keys: Any) -> Any:
    return keys["book_id"].astype(np.int64) << 32 | keys["instrument_id"].astype(np.int64)


def _words(keys: Any) -> Any:
    return keys.view(np.uint64).reshape(len(keys), KEY.itemsize // 8)  # none are none too


def snapshots_of(context: Context, positions: Positions, view: JournalView) -> Snapshots | None:
    """The way to Postgres, None where there is none."""
    return None if mode_of(context.config, "postgres") == "none" else Snapshots(context, positions, view)


def _run(config: Any, packages: queue.SimpleQueue[Package | None], answers: queue.SimpleQueue[Known | int | str]) -> None:
    """The thread: a connection that comes and goes; a package at a time."""
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(_live(config, packages, answers))
    finally:
        loop.close()


async def _live(config: Any, packages: queue.SimpleQueue[Package | None], answers: queue.SimpleQueue[Known | int | str]) -> None:
    pause = RETRY_SECONDS_MIN
    for number in count(1):
        try:
            found = endpoint(config, "postgres")
            if found is not None and await _carry(found, number, packages, answers):
                return
        except Exception as error:  # a server may fail in any way that its library knows
            answers.put(f"{type(error).__name__}: {error}")
        try:
            if packages.get(timeout=pause) is None:
                return
        except queue.Empty:
            pause = min(2 * pause, RETRY_SECONDS_MAX)


async def _carry(
    found: Endpoint, number: int, packages: queue.SimpleQueue[Package | None], answers: queue.SimpleQueue[Known | int | str]
) -> bool:
    """Write packages until the end (True) or a failure, which is raised."""
    from pks.edges.postgres.connection import DERIVED, connect
    from pks.edges.postgres.positions import PositionsWriter

    connection = await connect(found, **DERIVED)
    try:
        writer = PositionsWriter(connection)
        answers.put(Known(number, *await writer.begin()))
        while True:
            package = await asyncio.get_running_loop().run_in_executor(None, packages.get)
            if package is None:
                return True
            if package.connection != number:  # made before its connection was lost: its reader has heard of that by now, or will
                continue
            await writer.write(package)
            answers.put(package.sequence)
    finally:
        connection.terminate()
