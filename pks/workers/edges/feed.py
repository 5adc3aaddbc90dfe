"""What an edge is fed with: durable, judged events in their order, each slice with its verdicts and its match sets.

Owns the cursor arithmetic over journal, accumulators and their streams, so that no edge need know of shards. A free reader: it gates
nothing. The streams of a run begin at its start's checkpoint; what an edge lacks of the time before is folded again from the newest
checkpoint that is not ahead of it, or from the first event, until the streams have the rest. May not talk to a server, wait, or write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.events import catalogue_of, learn_definition
from pks.engine.lots.state import MATCHES, VERDICTS, Results
from pks.layouts.codes import Flag, Kind
from pks.layouts.detail import group_at
from pks.layouts.match import MATCH, VERDICT
from pks.segments.journal_view import JournalView
from pks.segments.ring import ring_cursor
from pks.segments.stream import StreamReader
from pks.topology import Host, Paths, SystemState
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.positions import Positions

STREAMS_FROM = "streams_from"
"""The accumulators' gauge: the event behind which this run's streams begin, plus one."""

SLICE_EVENTS = 1 << 13
STREAM_RECORDS = 1 << 14
RELEASED_EVENTS = 1 << 15
"""How many events behind the cursor the journal's pages may count as ours before they are let go."""


class Slice(NamedTuple):
    """Events first..last and all that the accumulators made of them."""

    first: int
    last: int
    events: Any  # EVENT[last - first + 1], the journal's own memory, DETAIL records among them
    refused: dict[int, int]  # sequence -> base.errors.Code of what an accumulator refused
    matches: Any  # MATCH[n] whose cause is in first..last, by (cause, sequence, index)


class Feed:
    """One edge's way through the journal. `open` until it says True, then `take` slices and `finish` what the server has."""

    def __init__(self, host: Host, paths: Paths, beat: Callable[[], None]) -> None:
        """beat: called in long folds."""
        self.host, self.paths, self._beat = host, paths, beat
        self.view = JournalView(paths.journal)
        self.catalogue = Catalogue()
        self.cursor = 0
        self._known = 0  # event up to which the catalogue knows definitions
        self._released = 0  # event up to which the journal's pages were let go
        self._ring = host.events
        self._judges = [self._ring.place(name) for name in ("journal", *(f"accumulator-{k}" for k in range(host.shards)))]
        self._source: _Fold | _Streams | None = None

    def limit(self) -> int:
        """Last event that is durable and that every accumulator has judged: what may leave the host."""
        return min(int(ring_cursor(self._ring.control, place)) for place in self._judges)

    @property
    def lag(self) -> int:
        """Events that the server does not have and may have."""
        return max(0, self.limit() - self.cursor)

    def waits_since_ns(self) -> int:
        """recorded_ns of the first event that the server does not have; 0 when it has all."""
        following = self.cursor + 1
        if following > self.limit():
            return 0
        self._see(following)
        return int(self.view.records[following]["recorded_ns"])

    def open(self, cursor: int) -> bool:
        """Go on behind event `cursor`, the last that the server has. False while the system is not so far: ask again."""
        limit = self.limit()
        if self.host.system_state is SystemState.STARTING or limit < 1 or not self._streams_begin():
            return False
        self._see(limit)
        rows = self.host.refdata.snapshot()
        if len(rows) and int(rows["definition_sequence"].max()) > limit:
            return False
        self.catalogue = catalogue_of(self.view.records, rows)
        self.cursor, self._known, self._released = cursor, limit, cursor
        self._source = None
        return True

    def take(self, most: int = SLICE_EVENTS) -> Slice | None:
        """The next slice, at most about `most` events and never a part of a group; None when there is nothing.

        Asked again without `finish`, it goes on behind the last one: slices may be under way at once.
        """
        source = self._source = self._source or self._choose()
        made = source.take(self.limit(), most)
        if made is not None:
            self._learn(made)
        elif source.is_over:
            source.close()
            self._source = self._choose()
        return made

    def finish(self, last: int) -> None:
        """The server has everything up to event `last`."""
        self.cursor = last
        if last - self._released >= RELEASED_EVENTS:
            self.view.release(last)
            self._released = last

    def rewind(self) -> None:
        """Forget slices under way: the next one begins behind what was finished."""
        if self._source is not None:
            self._source.close()
        self._source = None

    def close(self) -> None:
        """Let go of the streams' files."""
        self.rewind()

    def _choose(self) -> _Fold | _Streams:
        begins = self._streams_begin()
        assert begins, "a feed is opened when the streams have begun"
        return _Streams(self, self.cursor) if self.cursor >= begins - 1 else _Fold(self, self.cursor, begins - 1)

    def _streams_begin(self) -> int:
        """First event whose results every accumulator's streams have, plus one; 0 while one has said nothing yet."""
        owners = {facts.owner for facts in self.host.control.workers() if facts.name.startswith("accumulator-")}
        said = [cell.value for cell in self.host.control.read_cells() if cell.owner in owners and cell.name == STREAMS_FROM]
        values = [value for value in said if isinstance(value, int) and value > 0]
        return max(values) if len(values) == self.host.shards else 0

    def _see(self, sequence: int) -> None:
        if sequence > self.view.extent[1] or self.view.extent[1] == 0:
            self.view.refresh()

    def _learn(self, made: Slice) -> None:
        """Take definitions that came after the catalogue was read."""
        for at in np.flatnonzero(made.events["kind"] == Kind.REFDATA).tolist():
            if made.first + at > self._known:
                learn_definition(self.catalogue, group_at(self.view.records, -1, made.first + at))

    def cut(self, first: int, upto: int, most: int) -> int:
        """Last event of a slice from `first`: at most `upto`, about `most` events long, at the end of a batch if one ends there, else of a
        group; first - 1 for none.
        """
        self._see(upto)
        last = min(upto, first + most - 1)
        ends = np.flatnonzero(self.view.records["flags"][first : last + 1] & Flag.END_OF_BATCH)
        if len(ends):
            return first + int(ends[-1])
        record = self.view.records[last]
        last += int(record["group_count"]) - 1 - int(record["group_index"])
        return last if last <= upto else first - 1


class _Streams:
    """Slices out of the accumulators' streams of this run."""

    is_over = False

    def __init__(self, feed: Feed, cursor: int) -> None:
        self.feed, self.at = feed, cursor
        shards = range(feed.host.shards)
        self.matches = [feed.host.matches(k).reader() for k in shards]
        self.verdicts = [feed.host.verdicts(k).reader() for k in shards]
        self.kept = np.zeros(0, MATCH)
        self.refused: dict[int, int] = {}
        self.reached = {(name, shard): 0 for name in ("matches", "verdicts") for shard in shards}

    def _read(self, reader: StreamReader, name: str, shard: int, field: str, last: int) -> Iterator[Any]:
        """Records of a stream until one is of a later batch than event `last`, the end of one, or there are no more: batches do not mix."""
        while len(records := reader.read(STREAM_RECORDS)):
            self.feed._beat()
            yield records
            self.reached[name, shard] = int(records[field][-1])
            if self.reached[name, shard] > last:
                return

    def take(self, limit: int, most: int) -> Slice | None:
        """limit was read before: all that the accumulators say of events up to it is in the streams."""
        if limit <= self.at:
            return None
        last = self.feed.cut(self.at + 1, limit, most)
        if last <= self.at:
            return None
        ends_batch = bool(self.feed.view.records["flags"][last] & Flag.END_OF_BATCH)
        parts = [self.kept]
        for shard, reader in enumerate(self.matches):
            if self.reached["matches", shard] <= last or not ends_batch:
                for records in self._read(reader, "matches", shard, "cause", last if ends_batch else limit):
                    parts.append(records[records["cause"] > self.at])
        for shard, reader in enumerate(self.verdicts):
            if self.reached["verdicts", shard] <= last or not ends_batch:
                for records in self._read(reader, "verdicts", shard, "sequence", last if ends_batch else limit):
                    self.refused.update(zip(records["sequence"].tolist(), records["code"].tolist(), strict=True))
        found = np.concatenate(parts)
        self.kept = found[found["cause"] > last]
        made = _slice(self.feed, self.at + 1, last, self.refused, found[found["cause"] <= last])
        self.refused = {sequence: code for sequence, code in self.refused.items() if sequence > last}
        self.at = last
        return made

    def close(self) -> None:
        """Let go of the files."""
        for reader in (*self.matches, *self.verdicts):
            reader.close()


class _Fold:
    """Slices out of a fold of our own, for the time before this run's streams."""

    def __init__(self, feed: Feed, cursor: int, upto: int) -> None:
        self.feed, self.at, self.upto = feed, cursor, upto
        self.positions = Positions(feed.view.records, keys=1 << 12, lots=1 << 14)
        self.positions.shard.beat = feed._beat
        self.folded = 0
        self.matches: list[Any] = []
        self.refused: dict[int, int] = {}
        checkpoint = latest_checkpoint(feed.paths.checkpoints, cursor)
        if checkpoint is not None:
            load_positions(self.positions, checkpoint)
            self.folded = checkpoint.sequence
        while self.folded < cursor:
            self._fold(min(cursor, self.folded + SLICE_EVENTS))
            self.matches.clear()
            self.refused.clear()
            feed._beat()

    @property
    def is_over(self) -> bool:
        """The streams have the rest."""
        return self.at >= self.upto

    def take(self, limit: int, most: int) -> Slice | None:
        """As `_Streams.take`."""
        upto = min(limit, self.upto)
        if upto <= self.at:
            return None
        last = self._end_of_batch(min(upto, self.at + most), upto)
        first = self.at + 1
        if last < first:
            return None
        self._fold(last)
        matches = np.concatenate(self.matches) if self.matches else np.zeros(0, MATCH)
        made = _slice(self.feed, first, last, self.refused, matches)
        self.matches, self.refused = [], {}
        self.at = last
        return made

    def _end_of_batch(self, wanted: int, upto: int) -> int:
        """A fold stops only where no key waits for its batch's end, and a group stays whole: the first such place at or behind `wanted`."""
        self.feed._see(upto)
        records = self.feed.view.records
        for start in range(wanted, upto + 1, SLICE_EVENTS):
            found = np.flatnonzero(records["flags"][start : min(upto + 1, start + SLICE_EVENTS)] & Flag.END_OF_BATCH)
            if len(found):
                return start + int(found[0])
        return upto

    def _fold(self, last: int) -> None:
        self.feed._see(last)
        self.positions.apply(self.feed.view.records, -1, self.folded + 1, last, self._taken)
        self.positions.shard.sets_out.clear()
        self.positions.shard.reentries.clear()
        self.folded = last

    def _taken(self, out: Results) -> None:
        if count := int(out.counts[MATCHES]):
            self.matches.append(out.matches[:count].copy())
        if count := int(out.counts[VERDICTS]):
            verdicts: Any = out.verdicts[:count].view(VERDICT)
            self.refused.update(zip(verdicts["sequence"].tolist(), verdicts["code"].tolist(), strict=True))

    def close(self) -> None:
        """Nothing is held open."""


def _slice(feed: Feed, first: int, last: int, refused: dict[int, int], matches: Any) -> Slice:
    feed._see(last)
    order = np.lexsort((matches["index"], matches["sequence"], matches["cause"]))
    here = {sequence: code for sequence, code in refused.items() if first <= sequence <= last}
    return Slice(first, last, feed.view.records[first : last + 1], here, matches[order])
