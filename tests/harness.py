"""A whole core in one process without shared memory: capture's fold and one or several shards over a journal that is an array."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.errors import Code
from pks.engine.booking.admit import Admitted
from pks.engine.instruments.events import definition_event
from pks.engine.lots.reentry import reentry_event
from pks.engine.lots.state import CHANGED, CHANGED_ACCOUNTS, KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.layouts.codes import Flag, Kind, MatchKind
from pks.layouts.event import EVENT
from pks.layouts.slots import POSITION_SLOT
from pks.workers.booking import Booking, DayFiles
from pks.workers.dump import dump_events
from pks.workers.positions import Positions

NOW_NS = 1_742_000_000_000_000_000  # 2025-03-15
SLOT_BYTES = POSITION_SLOT.itemsize
SetName = tuple[int, int, int]  # closing event, book, instrument


class Fold:
    """One or several shards over a journal, and what they said."""

    def __init__(self, records: Any, shards: int = 1, **sizes: int) -> None:
        self.records = records
        self.positions = [Positions(records, index=k, shards=shards, **sizes) for k in range(shards)]
        self.verdicts: dict[int, int] = {}
        self.matches: dict[SetName, Any] = {}
        self.said: list[Any] = []  # every match record, in order
        self.slots: dict[tuple[int, int], bytes] = {}  # (book, instrument) -> what its slot would show
        self.held: dict[tuple[int, int, int], int] = {}  # (book, instrument, account) -> what its slot would show
        self.reached = [0] * shards  # by shard
        for position in self.positions:
            position.shard.wait_for_set = partial(self._set_of, position)

    def _set_of(self, receiver: Positions, transfer: int, version: int) -> Any:
        """What the accumulator waits for: its own results are out, and the giver's shard goes on until it has given."""
        receiver.shard.flush()
        giver = int(self.records[transfer]["book_id"])
        for position in self.positions:
            if position.shard.owns(giver):
                self._go_on(position, version)
            for made in position.shard.sets.get(transfer, ()):
                if made.version == version:
                    return made
        raise AssertionError(f"no shard has given the lots of transfer {transfer}, version {version}")

    def apply(self, first: int, last: int) -> None:
        """Apply events first..last, each shard as many at a time as it can."""
        self.reached = [max(reached, first - 1) for reached in self.reached]
        for position in self.positions:
            self._go_on(position, last)

    def _go_on(self, position: Positions, last: int) -> None:
        index = position.shard.index
        first, self.reached[index] = self.reached[index] + 1, max(self.reached[index], last)
        if first <= last:
            position.apply(self.records, -1, first, last, partial(self._taken, position))

    def _taken(self, position: Positions, out: Results) -> None:
        state = position.shard.state
        for k in out.changed[: out.counts[CHANGED]]:
            key = state.keys[k]
            self.slots[int(key["book_id"]), int(key["instrument_id"])] = key.tobytes()[:SLOT_BYTES]
        for row, k in out.changed_accounts[: out.counts[CHANGED_ACCOUNTS]]:
            key, held = state.keys[k], state.accounts[row]
            self.held[int(key["book_id"]), int(key["instrument_id"]), int(held["account_id"])] = int(held["qty_raw"])
        for verdict in out.verdicts[: out.counts[VERDICTS]]:
            self.verdicts[int(verdict["sequence"])] = int(verdict["code"])
        matches = out.matches[: out.counts[MATCHES]].copy()
        self.said.append(matches)
        fields = ("sequence", "book_id", "instrument_id", "cause", "revision")
        names = list(zip(*(matches[field].tolist() for field in fields), strict=True))
        for name in dict.fromkeys(names):
            chosen = matches[[other == name for other in names]]
            if not np.array_equal(chosen["index"], np.arange(chosen[0]["count"])):
                raise AssertionError(f"a match set is not whole: {name} {chosen['index']} of {chosen[0]['count']}")
            if chosen[0]["kind"] == MatchKind.NO_MATCH:
                self.matches.pop(name[:3], None)
            else:
                self.matches[name[:3]] = chosen

    def unshown(self) -> list[str]:
        """Where slots written from the lists of changes would not be what the shards hold; [] when all are."""
        lines = []
        for state in (position.shard.state for position in self.positions):
            for key in state.keys[: state.meta[KEYS_COUNT]]:
                name, row = (int(key["book_id"]), int(key["instrument_id"])), int(key["accounts"])
                if key["last_sequence"] and self.slots.get(name) != key.tobytes()[:SLOT_BYTES]:
                    lines.append(f"the slot of {name} is older than the key of event {key['last_sequence']}")
                while row >= 0:
                    held = state.accounts[row]
                    if self.held.get((*name, int(held["account_id"])), 0) != held["qty_raw"]:
                        lines.append(f"the slot of {name} in account {held['account_id']} is older than event {held['last_sequence']}")
                    row = int(held["next"])
        return lines

    def keys(self) -> list[Any]:
        """Every key of every shard."""
        return [key for p in self.positions for key in p.shard.state.keys[: p.shard.state.meta[KEYS_COUNT]]]


class Core:
    """Books groups one after another. batch: groups that share one end of batch (1: each has its own)."""

    def __init__(self, folder: Path, shards: int = 1, capacity: int = 1 << 16, *, batch: int = 1, **sizes: int) -> None:
        self.records = np.zeros(capacity, EVENT)
        self.booking = Booking(lambda sequence: self.records[sequence], DayFiles(folder / "dedup"))
        self.fold = Fold(self.records, shards, **sizes)
        self.batch, self.waiting, self.applied = batch, 0, 0
        self.booking.admission.verdict_of = self.verdict_of

    @property
    def positions(self) -> list[Positions]:
        """The shards."""
        return self.fold.positions

    @property
    def verdicts(self) -> dict[int, int]:
        """What the shards refused."""
        return self.fold.verdicts

    @property
    def matches(self) -> dict[SetName, Any]:
        """The current match sets."""
        return self.fold.matches

    @property
    def sequence(self) -> int:
        """The last event's."""
        return self.booking.sequence

    def verdict_of(self, sequence: int) -> int:
        """Code by which a shard refused an event, 0 for none."""
        self.flush()
        return self.verdicts.get(sequence, 0)

    def book(self, group: Any, now_ns: int = NOW_NS) -> Admitted:
        """Admit, place and apply one group."""
        outcome = self.booking.admit(np.array(group, EVENT), now_ns)
        if outcome.records is None:
            return outcome
        first = self.booking.sequence + 1
        placed = self.booking.place(outcome.records, now_ns, 0)
        self.waiting += 1
        if self.waiting < self.batch:
            placed["flags"] &= np.uint16(0xFFFF ^ Flag.END_OF_BATCH)
        self.records[first : first + len(placed)] = placed
        if self.waiting >= self.batch:
            self.flush()
        code = next((self.verdicts[n] for n in range(first, self.sequence + 1) if n in self.verdicts), int(Code.ACCEPTED))
        return Admitted(code, placed, first)

    def flush(self) -> None:
        """End the batch: apply what was placed, and book what the shards send back in."""
        if self.applied < self.sequence:
            last = self.records[self.sequence]
            last["flags"] = int(last["flags"]) | Flag.END_OF_BATCH
            first, self.applied, self.waiting = self.applied + 1, self.sequence, 0
            self.fold.apply(first, self.sequence)
            for position in self.positions:
                sent, position.shard.reentries[:] = list(position.shard.reentries), []
                for transfer, cause in sent:
                    self.reenter(transfer, cause)
            self.flush()

    def reenter(self, transfer: int, cause: int) -> None:
        """Book the amendment by which changed lots of a transfer reach its receiver."""
        outcome = self.book(reentry_event(self.records[transfer], cause))
        assert outcome.code in (Code.ACCEPTED, Code.DUPLICATE, Code.ALREADY_CANCELLED), Code(outcome.code).name  # cancelled meanwhile

    def define(self, definition: Any) -> int:
        """Row id of a definition, booked."""
        outcome = self.book(definition_event(definition))
        assert outcome.code in (Code.ACCEPTED, Code.DUPLICATE), Code(outcome.code).name
        assert outcome.records is not None
        return int(outcome.records[0]["original"])

    def keys(self) -> list[Any]:
        """Every key of every shard."""
        return self.fold.keys()

    def dump(self, upto: int | None = None) -> list[dict[str, Any]]:
        """The journal as `pks journal dump` prints it."""
        return list(dump_events(self.records, -1, 1, self.sequence if upto is None else upto, self.booking.catalogue))

    def last(self) -> dict[str, Any]:
        """The last event, dumped."""
        record = self.records[self.sequence]
        first = self.sequence - int(record["group_index"]) if int(record["kind"]) == Kind.DETAIL else self.sequence
        return next(dump_events(self.records, -1, first, first, self.booking.catalogue))
