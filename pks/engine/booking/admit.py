"""What the compiled loop leaves: corrections, transfers, blocks and allocations, openings, routed trades, instrument events, definitions.

Owns the rules of what may become an event, for whole groups; a group is admitted whole or not at all. Pure: records come in, the records
to be sequenced go out. Times, the journal's records and the older days' keys are handed in. Source: design.md sections 2 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from pks.base.errors import Code, Refused
from pks.base.limits import DATE_MAX, DATE_MIN, GROUP_RECORDS_MAX
from pks.engine.booking.dedup import dedup_all, dedup_find
from pks.engine.booking.keys import NO_LOT, discriminator, inline_id, trade_key
from pks.engine.booking.tables import Tables
from pks.engine.booking.take import check_fee, check_trade, place_date, same_trade
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.detail import text_of
from pks.layouts.event import DETAIL_TEXT_BYTES, EVENT, EVENT_WORDS, FIELD_NUMBER

Record = Any  # one EVENT
Records = Any  # EVENT[n]

# bits of `subject` in an AMEND: which fields the new version names
GIVEN = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            "side",
            "qty_raw",
            "price_raw",
            "fee_raw",
            "trade_time_ns",
            "effective_date",
            "settle_date",
            "account_id",
            "book_id",
            "instrument_id",
            "lot_date",
            "to_account_id",
            "to_book_id",
        )
    )
}
KEPT_WITH = {"fee_raw": ("fee_scale", "fee_currency_id")}
SCALED = {"qty_raw": "qty_scale", "price_raw": "price_scale"}  # in an AMEND and an ALLOCATION at the record's own scale
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)
ORIGINALS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)


class Catalogue(Protocol):
    """What admission asks of reference data."""

    def route(self, venue: str, account: str, source: str) -> int: ...


@dataclass(frozen=True)
class Admitted:
    """A group's outcome: records to sequence, or the first answer to repeat, or the reason of a refusal."""

    code: int
    records: Records | None = None
    sequence: int = 0
    field_name: str = ""
    value: int = 0
    other: int = 0
    later: bool = False  # not yet: who can wait asks again when more is durable


def refused(code: Code, field_name: str = "", value: int = 0, other: int = 0) -> Admitted:
    """The outcome of a group that must not be booked."""
    return Admitted(int(code), None, 0, field_name, value, other)


@dataclass
class Versions:
    """What corrections did: the latest version of a trade, where it moved to, which are cancelled, which blocks are open or allocated."""

    latest: dict[int, int] = field(default_factory=dict)  # original -> latest AMEND
    moved: dict[int, int] = field(default_factory=dict)  # original -> the trade that took its place in another book or instrument
    blocks: dict[int, int] = field(default_factory=dict)  # block -> first child, 0 while it is unallocated
    second_keys: dict[tuple[int, int], int] = field(default_factory=dict)  # a command's own key -> its sequence
    cancelled: dict[int, int] = field(default_factory=dict)  # original -> its first CANCEL
    lot_names: dict[tuple[int, str], int] = field(default_factory=dict)  # (instrument, lot id that a trade gave) -> the latest such trade

    def learn(self, e: Record) -> None:
        """Take one sequenced event; the same in capture and in a replay."""
        kind, sequence, original = int(e["kind"]), int(e["sequence"]), int(e["original"])
        if kind == Kind.AMEND and not int(e["flags"]) & Flag.REENTRY:
            self.latest[original] = sequence
        elif kind == Kind.TRADE and int(e["flags"]) & Flag.BLOCK:
            self.blocks[sequence] = 0
        elif kind == Kind.TRADE and original:
            self.moved[original] = sequence
        elif kind == Kind.ALLOCATION and int(e["group_index"]) == 0:
            self.blocks[original] = sequence
        elif kind == Kind.CANCEL:
            self.blocks.pop(original, None)
            self.cancelled.setdefault(original, sequence)
        key = (int(e["second_key_hi"]), int(e["second_key_lo"]))
        if key != (0, 0):
            self.second_keys[key] = sequence

    def learn_lot(self, group: Records) -> None:
        """Take the lot id of a sequenced trade whose lot was not known: if it opens one, that is the lot's name."""
        e = group[0]
        if int(e["kind"]) == Kind.TRADE and int(e["lot"]) == NO_LOT:
            name = _details(group).get("lot_id")
            if name:
                self.lot_names[int(e["instrument_id"]), str(name)] = int(e["sequence"])

    def now_at(self, original: int) -> int:
        """The event that stands for the trade now: itself, or where an amend moved it."""
        while original in self.moved:
            original = self.moved[original]
        return original


def _no_verdict(_: int) -> int:
    return 0


@dataclass
class Admission:
    """Judges groups against the tables. The caller keeps the tables and the catalogue current and sequences what is admitted."""

    tables: Tables
    versions: Versions
    catalogue: Any
    record_at: Callable[[int], Record]  # the event of a sequence
    keys_in_files: Callable[[int, int, int | None], Iterable[tuple[int, int]]]  # (hi, lo, date or all) -> (sequence, discriminator)
    verdict_of: Callable[[int], int] = _no_verdict  # code by which the accumulators refused an event, 0 for none; may wait for it

    def admit(self, group: Records, now_ns: int) -> Admitted:
        """What becomes of the group, whose first record says its kind."""
        head = group[0]
        kind = int(head["kind"])
        if not _is_whole(group):
            return refused(Code.BAD_RECORD, "group_count", int(head["group_count"]))
        try:
            if kind in (Kind.TRADE, Kind.OPENING):
                return self._trade(group, now_ns)
            if kind in CORRECTIONS:
                return self._correction(group, now_ns)
            if kind == Kind.TRANSFER:
                return self._transfer(group, now_ns)
            if kind == Kind.ALLOCATION:
                return self._allocation(group)
            if kind in (Kind.ACTION, Kind.FIXING):
                return self._instrument_event(group, now_ns)
            if kind == Kind.PERIOD_LOCK:
                return self._period_lock(group)
        except Refused as error:
            return refused(error.code, error.field, error.value if isinstance(error.value, int) else 0)
        return refused(Code.UNKNOWN_KIND, "kind", kind)

    # trades and openings

    def _trade(self, group: Records, now_ns: int) -> Admitted:
        e = group[0]
        details = _details(group)
        if int(e["kind"]) == Kind.OPENING and int(e["flags"]) & Flag.BLOCK:
            return refused(Code.BAD_RECORD, "flags", int(e["flags"]))
        if e["book_id"] == 0 and not int(e["flags"]) & Flag.BLOCK:
            e["book_id"] = self._routed(e, details)
        book_id = int(e["book_id"])
        if int(e["flags"]) & Flag.BLOCK:
            e["book_id"] = self._any_book()  # a block has none; its checks need one
        self._check(e, now_ns)
        e["book_id"] = book_id
        if details.get("lot_id"):
            self._find_lot(e, str(details["lot_id"]))
        repeated = self._repeated(e)
        if repeated is not None:
            return repeated
        e["original"] = 0
        return Admitted(int(Code.ACCEPTED), group)

    def _any_book(self) -> int:
        known = np.flatnonzero(self.tables.books["known"])
        return int(known[0]) if len(known) else 0

    def _routed(self, e: Record, details: dict[str, Any]) -> int:
        account = self.catalogue.get(Subject.ACCOUNT, int(e["account_id"]))
        source = self.catalogue.get(Subject.SOURCE, int(e["source_id"]))
        book_id = self.catalogue.route(str(details.get("venue", "")), account.code if account else "", source.code if source else "")
        if not book_id:
            raise Refused(Code.NO_ROUTE, "book_id", 0)
        return int(book_id)

    def _check(self, e: Record, now_ns: int) -> None:
        """Raise for the first thing wrong with a trade record, and write its dates."""
        if not e["trade_id"]:
            raise Refused(Code.MISSING_FIELD, "trade_id", 0)
        one = _one(e)
        opening = int(e["kind"]) == Kind.OPENING
        dates = (int(e["effective_date"]), int(e["lot_date"]))
        code, number = check_trade(self.tables, one[0], now_ns)
        if not code:
            code, number = place_date(self.tables, one[0])
        if code:
            name = _FIELD_NAMES[number]
            raise Refused(Code(code), name, int(e[name]) if name != "trade_id" else 0)
        e["effective_date"], e["lot_date"] = one[0]["effective_date"], one[0]["lot_date"]
        e["money_scale"] = self.tables.instruments[int(e["instrument_id"])]["money_scale"]
        if opening:
            e["lot_date"] = dates[1]
            if not DATE_MIN <= dates[1] <= int(e["effective_date"]):
                raise Refused(Code.BAD_DATE, "lot_date", dates[1])

    def _key(self, e: Record) -> tuple[int, int, int]:
        """(key hi, key lo, discriminator), written into the record."""
        one = _one(e)
        hi, lo = trade_key(one.view(np.int64).reshape(1, EVENT_WORDS), 0, int(e["leg"]))
        recurs = int(self.tables.sources[int(e["source_id"])]) - 1
        disc = discriminator(
            int(e["source_id"]), recurs, int(e["account_id"]), int(e["instrument_id"]), int(e["side"]), int(e["effective_date"])
        )
        e["key_hi"], e["key_lo"], e["discriminator"] = int(hi) & _WORD, int(lo) & _WORD, disc
        return int(hi), int(lo), int(disc)

    def _repeated(self, e: Record) -> Admitted | None:
        """The first answer when this key was booked before, a conflict when it was with other content, None when it is new."""
        hi, lo, disc = self._key(e)
        known = int(dedup_find(self.tables.dedup, hi, lo, disc))
        if not known:
            for sequence, other in self.keys_in_files(hi, lo, int(e["effective_date"])):
                if other == disc:
                    known = sequence
        own = (int(e["second_key_hi"]), int(e["second_key_lo"]))
        if own != (0, 0) and own in self.versions.second_keys and self.versions.second_keys[own] != known:
            return refused(Code.IDEMPOTENCY_CONFLICT, "second_key_hi", 0)
        if not known:
            return None
        if same_trade(_one(e)[0], _one(self.record_at(known))[0]):
            return Admitted(int(Code.DUPLICATE), None, known)
        return Admitted(int(Code.IDEMPOTENCY_CONFLICT), None, known, "trade_id")

    def _find_lot(self, e: Record, lot_id: str) -> None:
        """Turn the lot's id into the sequence and leg of its opening. An unknown one is the accumulator's to refuse."""
        for name, leg in ((lot_id, 0), (lot_id[:-2], 2) if lot_id.endswith("/2") else (lot_id, 0)):
            found = self._named(inline_id(name), 0, 0, 0)
            found = [sequence for sequence in found if int(self.record_at(sequence)["instrument_id"]) == int(e["instrument_id"])]
            if found:
                e["lot"], e["lot_leg"] = found[-1], leg
                return
        e["lot"], e["lot_leg"] = self.versions.lot_names.get((int(e["instrument_id"]), lot_id), NO_LOT), 0

    # corrections

    def _named(self, trade_id: bytes, leg: int, source_id: int, account_id: int) -> list[int]:
        """Sequences of the trades with that id, ascending; source and account narrow it where given."""
        record = np.zeros(1, EVENT)
        record["trade_id"] = trade_id
        hi, lo = (int(word) for word in trade_key(record.view(np.int64).reshape(1, EVENT_WORDS), 0, leg))
        into = np.zeros(256, np.int64)
        count = int(dedup_all(self.tables.dedup, hi, lo, into))
        found = {int(sequence) for sequence in into[: min(count, len(into))]}
        found |= {sequence for sequence, _ in self.keys_in_files(hi, lo, None)}
        kept = []
        for sequence in sorted(found):
            e = self.record_at(sequence)
            if (source_id and int(e["source_id"]) != source_id) or (account_id and int(e["account_id"]) != account_id):
                continue
            kept.append(sequence)
        return kept

    def _correction(self, group: Records, now_ns: int) -> Admitted:
        e = group[0]
        details = _details(group)
        if not e["trade_id"]:
            return refused(Code.MISSING_FIELD, "trade_id")
        own = (int(e["second_key_hi"]), int(e["second_key_lo"]))
        if own != (0, 0) and own in self.versions.second_keys:
            return self._repeated_correction(e, self.versions.second_keys[own])
        account_id = 0 if int(e["subject"]) & GIVEN["account_id"] and int(e["kind"]) == Kind.AMEND else int(e["account_id"])
        found = self._named(bytes(e["trade_id"]), int(e["leg"]), int(e["source_id"]), account_id)
        if len(found) > 1:
            found = [sequence for sequence in found if self._still_fits(e, sequence)] or found
        if not found:
            return refused(Code.UNKNOWN_TRADE, "trade_id")
        if len(found) > 1:
            return refused(Code.AMBIGUOUS_ORIGINAL, "trade_id", found[0], found[1])
        original = self.versions.now_at(found[0])
        current = self._current(original)
        if int(e["flags"]) & Flag.REENTRY and int(current["kind"]) not in (Kind.TRANSFER, Kind.AMEND):
            return refused(Code.INVALID_TRANSITION, "kind")
        if int(current["flags"]) & Flag.BLOCK:  # no accumulator judges a block
            if original in self.versions.cancelled:
                return refused(Code.ALREADY_CANCELLED, "trade_id", self.versions.cancelled[original])
            if self.versions.blocks.get(original):
                return refused(Code.ALREADY_ALLOCATED, "trade_id", self.versions.blocks[original])
        if int(e["kind"]) == Kind.AMEND:
            return self._amend(group, e, original, current, now_ns)
        if int(e["kind"]) == Kind.FEE:
            return self._fee(group, e, original, current, details)
        _copy_identity(e, current, original)
        return Admitted(int(Code.ACCEPTED), group)

    def _current(self, original: int) -> Record:
        """The latest version of the trade that was not refused."""
        version = self.versions.latest.get(original, original)
        while version != original and self.verdict_of(version):
            e = self.record_at(version)
            book_id = int(e["book_id"])
            while version != original:
                version = int(e["previous"] if int(e["book_id"]) == book_id else e["previous_other"])
                e = self.record_at(version)
                if int(e["kind"]) == Kind.AMEND and int(e["original"]) == original and not int(e["flags"]) & Flag.REENTRY:
                    break
        return self.record_at(version)

    def _still_fits(self, e: Record, sequence: int) -> bool:
        """Among several trades with that id: does the instrument (and book) that the correction names fit?"""
        other = self.record_at(sequence)
        return all(not int(e[name]) or int(e[name]) == int(other[name]) for name in ("instrument_id", "book_id"))

    def _repeated_correction(self, e: Record, known: int) -> Admitted:
        """A correction under a key that event `known` has: the same again, or another one. The key of an amend that moved its trade is the
        trade leg's.
        """
        first, kind = self.record_at(known), int(e["kind"])
        is_moved = kind == Kind.AMEND and int(first["kind"]) == Kind.TRADE and bool(int(first["original"]))
        same = (int(first["kind"]) == kind or is_moved) and bytes(first["trade_id"]) == bytes(e["trade_id"])
        if same and kind == Kind.AMEND:
            given = int(e["subject"])
            same = bool(int(e["flags"]) & Flag.REENTRY) or given == int(first["subject"])
            same = same and all(_says_the_same(first, e, name) for name, bit in GIVEN.items() if given & bit)
        if same and kind == Kind.FEE:
            same = _says_the_same(first, e, "fee_raw")
        if same:
            return Admitted(int(Code.DUPLICATE), None, known)
        return Admitted(int(Code.IDEMPOTENCY_CONFLICT), None, known, "trade_id")

    def _amend(self, group: Records, e: Record, original: int, current: Record, now_ns: int) -> Admitted:
        new = _one(current)[0].copy()
        given = int(e["subject"])
        for name, bit in GIVEN.items():
            if given & bit and name not in SCALED:
                for part in (name, *KEPT_WITH.get(name, ())):
                    new[part] = e[part]
        if given & GIVEN["fee_raw"]:
            new["flags"] = int(new["flags"]) & ~int(Flag.FEE_UNKNOWN) | Flag.HAS_FEE
        policy = self.tables.instruments[int(new["instrument_id"])] if int(new["instrument_id"]) < len(self.tables.instruments) else None
        if policy is None or not policy["known"]:
            return refused(Code.UNKNOWN_INSTRUMENT, "instrument_id", int(new["instrument_id"]))
        _rescaled(new, policy)
        for name, scale in SCALED.items():
            if given & GIVEN[name]:
                new[name] = _to_scale(int(e[name]), int(e[scale]), int(policy[scale]), name)
        flags = int(new["flags"]) & ~int(Flag.HAS_DETAIL | Flag.END_OF_BATCH | Flag.REENTRY | Flag.GROUP_LEG)
        has_date = flags & Flag.HAS_BUSINESS_DATE or given & GIVEN["effective_date"]
        if given & GIVEN["effective_date"]:
            flags |= Flag.HAS_BUSINESS_DATE
        elif not given & GIVEN["trade_time_ns"]:
            flags |= Flag.HAS_BUSINESS_DATE  # the date stays what it was
        reentry = int(e["flags"]) & Flag.REENTRY
        new["flags"] = flags | reentry
        kind = int(self.record_at(original)["kind"])
        new["kind"] = kind
        if kind == Kind.TRANSFER:
            self._check_transfer(new, now_ns)
        elif int(new["flags"]) & Flag.BLOCK:
            self._check_block(new, now_ns)
        else:
            self._check(new, now_ns)
        if not reentry and _economics(new) == _economics(_rescaled(_one(current)[0].copy(), policy)):
            if int(current["sequence"]) == original:
                return refused(Code.NOTHING_CHANGED, "trade_id", original)
            return Admitted(int(Code.DUPLICATE), None, int(current["sequence"]))
        for name in ("second_key_hi", "second_key_lo", "source_id", "leg", "intake", "detail_bytes", "group_count", "group_index"):
            new[name] = e[name] if name != "source_id" else current[name]
        new["original"], new["subject"] = original, given
        new["key_hi"], new["key_lo"], new["discriminator"] = current["key_hi"], current["key_lo"], current["discriminator"]
        moves = any(int(new[name]) != int(current[name]) for name in ("book_id", "instrument_id", "to_book_id"))
        if moves and kind != Kind.TRADE:
            return refused(Code.INVALID_TRANSITION, "book_id", int(new["book_id"]))
        if moves:
            code = Code.ALREADY_CANCELLED if original in self.versions.cancelled else Code(self.verdict_of(original))
            if code:  # the trade leg must not stand when the cancel leg cannot
                return refused(code if code == Code.ALREADY_CANCELLED else Code.INVALID_TRANSITION, "trade_id", original)
            return self._move(new, original, current)
        new["kind"] = Kind.AMEND
        if not has_date:  # it was only kept: a later amendment of the time may move it
            new["flags"] = int(new["flags"]) & ~int(Flag.HAS_BUSINESS_DATE)
        if int(e["flags"]) & Flag.HAS_DETAIL:
            new["flags"] = int(new["flags"]) | Flag.HAS_DETAIL
        group[0] = new
        return Admitted(int(Code.ACCEPTED), group)

    def _move(self, new: Record, original: int, current: Record) -> Admitted:
        """An amend to another book or instrument: a linked cancel and trade."""
        legs = np.zeros(2, EVENT)
        legs[0] = new
        _copy_identity(legs[0], current, original)
        legs[0]["kind"] = Kind.CANCEL
        legs[1] = new
        legs[1]["kind"], legs[1]["original"] = Kind.TRADE, original
        legs["second_key_hi"][0] = legs["second_key_lo"][0] = 0
        legs["flags"] |= np.uint16(Flag.GROUP_LEG)
        legs["group_count"], legs["group_index"] = 2, (0, 1)
        return Admitted(int(Code.ACCEPTED), legs)

    def _fee(self, group: Records, e: Record, original: int, current: Record, details: dict[str, Any]) -> Admitted:
        if not int(e["flags"]) & Flag.HAS_FEE:
            return refused(Code.MISSING_FIELD, "fee_raw")
        kept = {name: e[name].copy() for name in ("fee_raw", "fee_scale", "fee_currency_id", "trade_time_ns")}
        if not kept["trade_time_ns"]:
            kept["trade_time_ns"] = current["trade_time_ns"].copy()
        policy = self.tables.instruments[int(current["instrument_id"])]
        probe = _one(current)[0].copy()
        for name, value in kept.items():
            probe[name] = value
        code = int(check_fee(self.tables, _one_policy(policy)[0], _one(probe)[0]))
        if code:
            return refused(Code(code), "fee_raw", int(e["fee_raw"]))
        _copy_identity(e, current, original)
        for name, value in kept.items():
            e[name] = value
        e["flags"] = int(e["flags"]) | Flag.HAS_FEE
        return Admitted(int(Code.ACCEPTED), group)

    # transfers, blocks, instrument events

    def _transfer(self, group: Records, now_ns: int) -> Admitted:
        e = group[0]
        details = _details(group)
        if details.get("lot_id"):
            self._find_lot(e, str(details["lot_id"]))
        if not e["to_account_id"]:
            e["to_account_id"] = e["account_id"]
        self._check_transfer(e, now_ns)
        repeated = self._repeated(e)
        return repeated if repeated is not None else Admitted(int(Code.ACCEPTED), group)

    def _check_transfer(self, e: Record, now_ns: int) -> None:
        books = self.tables.books
        for name in ("book_id", "to_book_id"):
            if not 0 < int(e[name]) < len(books) or not books[int(e[name])]["known"]:
                raise Refused(Code.UNKNOWN_BOOK, name, int(e[name]))
        if e["book_id"] == e["to_book_id"]:
            raise Refused(Code.SAME_BOOK, "to_book_id", int(e["to_book_id"]))
        if int(e["flags"]) & Flag.AT_MARKET and not int(e["flags"]) & Flag.HAS_PRICE:
            raise Refused(Code.MISSING_FIELD, "price_raw", 0)
        probe = _one(e)
        probe["side"] = 1
        if not int(e["flags"]) & Flag.HAS_PRICE:
            probe["price_raw"] = 1
        self._check(probe[0], now_ns)
        for name in ("effective_date", "lot_date", "money_scale"):
            e[name] = probe[0][name]
        e["side"] = 0

    def _check_block(self, e: Record, now_ns: int) -> None:
        e["book_id"] = self._any_book()
        self._check(e, now_ns)
        e["book_id"] = 0

    def _allocation(self, group: Records) -> Admitted:
        first = group[0]
        hi, lo = int(first["second_key_hi"]), int(first["second_key_lo"])
        block = self._block_of(_signed(hi), _signed(lo))
        if block is None:
            return refused(Code.UNKNOWN_TRADE, "original")
        sequence = int(block["sequence"])
        if not int(block["flags"]) & Flag.BLOCK:
            return refused(Code.NOT_A_BLOCK, "original", sequence)
        policy = self.tables.instruments[int(block["instrument_id"])]
        _rescaled(block, policy)
        for child in group:
            if int(child["kind"]) != Kind.ALLOCATION or not child["trade_id"]:
                return refused(Code.BAD_RECORD, "kind", int(child["kind"]))
            if not 0 < int(child["book_id"]) < len(self.tables.books) or not self.tables.books[int(child["book_id"])]["known"]:
                return refused(Code.UNKNOWN_BOOK, "book_id", int(child["book_id"]))
            if int(child["qty_raw"]) <= 0:
                return refused(Code.NOT_POSITIVE, "qty_raw", int(child["qty_raw"]))
            _inherit(child, block)
            if int(child["flags"]) & Flag.HAS_FEE:
                code = int(check_fee(self.tables, _one_policy(policy)[0], _one(child)[0]))
                if code:
                    return refused(Code(code), "fee_raw", int(child["fee_raw"]))
        ids = {(bytes(child["trade_id"]), int(child["leg"])) for child in group}
        if len(ids) != len(group):
            return refused(Code.IDEMPOTENCY_CONFLICT, "trade_id")
        repeated = [self._repeated(child) for child in group]
        if all(again is not None and again.code == Code.DUPLICATE for again in repeated):
            return repeated[0]  # type: ignore[return-value]
        for again in repeated:
            if again is not None:
                return Admitted(int(Code.IDEMPOTENCY_CONFLICT), None, again.sequence, "trade_id")
        allocated = self.versions.blocks.get(sequence)
        if allocated is None or allocated:
            return refused(Code.ALREADY_ALLOCATED if allocated else Code.ALREADY_CANCELLED, "original", sequence)
        if int(group["qty_raw"].astype(object).sum()) != int(block["qty_raw"]):
            return refused(Code.ALLOCATION_MISMATCH, "qty_raw", int(group["qty_raw"].sum()))
        if int(block["flags"]) & Flag.HAS_FEE and _fees(group) != _fees(_one(block)):
            return refused(Code.ALLOCATION_MISMATCH, "fee_raw", int(group["fee_raw"].sum()))
        group["second_key_hi"] = group["second_key_lo"] = 0
        group["flags"] |= np.uint16(Flag.GROUP_LEG)
        return Admitted(int(Code.ACCEPTED), group)

    def _block_of(self, hi: int, lo: int) -> Record | None:
        """The latest version of the block with that key, with the block's own sequence."""
        into = np.zeros(64, np.int64)
        count = int(dedup_all(self.tables.dedup, hi, lo, into))
        found = {int(sequence) for sequence in into[: min(count, 64)]} | {sequence for sequence, _ in self.keys_in_files(hi, lo, None)}
        for sequence in sorted(found):
            original = self.record_at(sequence)
            if int(original["flags"]) & Flag.BLOCK or len(found) == 1:
                block = _one(self.record_at(self.versions.latest.get(sequence, sequence)))[0].copy()
                block["sequence"] = sequence
                return block
        return None

    def _instrument_event(self, group: Records, now_ns: int) -> Admitted:
        e = group[0]
        instrument_id = int(e["instrument_id"])
        if not 0 < instrument_id < len(self.tables.instruments) or not self.tables.instruments[instrument_id]["known"]:
            return refused(Code.UNKNOWN_INSTRUMENT, "instrument_id", instrument_id)
        policy = self.tables.instruments[instrument_id]
        if not DATE_MIN <= int(e["effective_date"]) <= DATE_MAX:
            return refused(Code.BAD_DATE, "effective_date", int(e["effective_date"]))
        if e["price_scale"] != policy["price_scale"]:
            return refused(Code.SCALE_MISMATCH, "price_scale", int(e["price_scale"]))
        if int(e["kind"]) == Kind.ACTION and not (0 < int(e["qty_raw"]) < 2**31 and 0 < int(e["price_raw"]) < 2**31):
            return refused(Code.BAD_RATIO, "qty_raw", int(e["qty_raw"]))
        if int(e["kind"]) == Kind.FIXING and not policy["negative_price"] and int(e["price_raw"]) < 0:
            return refused(Code.NEGATIVE_PRICE, "price_raw", int(e["price_raw"]))
        e["qty_scale"], e["money_scale"] = policy["qty_scale"], policy["money_scale"]
        hi, lo, disc = self._key(e)
        known = int(dedup_find(self.tables.dedup, hi, lo, disc))
        for sequence, other in self.keys_in_files(hi, lo, int(e["effective_date"])):
            known = sequence if other == disc else known
        if known:
            first = self.record_at(known)
            names = ("kind", "instrument_id", "qty_raw", "price_raw", "fee_raw", "effective_date")
            same = all(int(first[name]) == int(e[name]) for name in names)
            return Admitted(int(Code.DUPLICATE if same else Code.IDEMPOTENCY_CONFLICT), None, known, "" if same else "trade_id")
        return Admitted(int(Code.ACCEPTED), group)

    def _period_lock(self, group: Records) -> Admitted:
        date = int(group[0]["effective_date"])
        if not DATE_MIN <= date <= DATE_MAX:
            return refused(Code.BAD_DATE, "effective_date", date)
        return Admitted(int(Code.ACCEPTED), group)


_WORD = 2**64 - 1
_FIELD_NAMES = {number: name for name, number in FIELD_NUMBER.items()}


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _one(record: Record) -> Records:
    """EVENT[1] with a copy of the record, as kernels take it."""
    one = np.zeros(1, EVENT)
    one[0] = record
    return one


def _one_policy(policy: Any) -> Any:
    one = np.zeros(1, policy.dtype)
    one[0] = policy
    return one


def _is_whole(group: Records) -> bool:
    """Are the records numbered as one group, of at most the largest size, events first and details behind?"""
    count = len(group)
    if not 0 < count <= GROUP_RECORDS_MAX or not (group["group_count"] == count).all():
        return False
    if not (group["group_index"] == np.arange(count)).all():
        return False
    is_detail = group["kind"] == Kind.DETAIL
    room = int(is_detail.sum()) * DETAIL_TEXT_BYTES
    return bool(not is_detail[0] and (np.diff(is_detail.astype(np.int8)) >= 0).all() and int(group[0]["detail_bytes"]) <= room)


def _details(group: Records) -> dict[str, Any]:
    """The object in the group's text; {} without one."""
    text = text_of(group)
    if not text:
        return {}
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise Refused(Code.BAD_RECORD, "detail_bytes", len(text)) from None
    if not isinstance(value, dict):
        raise Refused(Code.BAD_RECORD, "detail_bytes", len(text))
    return value


def _copy_identity(e: Record, current: Record, original: int) -> None:
    """Give a correction everything of its trade but what is its own."""
    own = {name: e[name].copy() for name in ("kind", "second_key_hi", "second_key_lo", "group_index", "group_count", "detail_bytes")}
    flags = int(e["flags"]) & int(Flag.HAS_DETAIL | Flag.REENTRY | Flag.HAS_FEE)
    for name in EVENT.names or ():
        e[name] = current[name]
    for name, value in own.items():
        e[name] = value
    e["flags"] = flags | int(current["flags"]) & int(Flag.BLOCK | Flag.HAS_PRICE | Flag.AT_MARKET)
    e["original"], e["subject"] = original, 0
    for name in ("sequence", "recorded_ns", "previous", "previous_other", "batch_first", "batch_last", "batch_check", "checksum"):
        e[name] = 0


def _inherit(child: Record, block: Record) -> None:
    """An allocation takes account, instrument, side, price and times from its block."""
    child["qty_raw"] = _to_scale(int(child["qty_raw"]), int(child["qty_scale"]), int(block["qty_scale"]), "qty_raw")
    for name in (
        "account_id",
        "instrument_id",
        "side",
        "price_raw",
        "price_scale",
        "qty_scale",
        "money_scale",
        "trade_time_ns",
        "effective_date",
        "lot_date",
        "settle_date",
        "source_id",
    ):
        child[name] = block[name]
    if int(child["flags"]) & Flag.HAS_FEE and not child["fee_currency_id"]:
        child["fee_currency_id"] = block["fee_currency_id"]
    child["original"] = block["sequence"]


def _fees(records: Records) -> tuple[int, int]:
    """(total fee at scale 18, currency or -1 when they differ) of the records."""
    total = sum(int(record["fee_raw"]) * 10 ** (18 - int(record["fee_scale"])) for record in records)
    currencies = {int(record["fee_currency_id"]) for record in records if record["fee_raw"]}
    return total, currencies.pop() if len(currencies) == 1 else (0 if not currencies else -1)


def _to_scale(raw: int, old: int, new: int, name: str) -> int:
    """`raw` at scale `old` as a raw value at scale `new`, exactly. Raises Refused."""
    if new >= old:
        value = raw * 10 ** (new - old)
    else:
        value, rest = divmod(raw, 10 ** (old - new))
        if rest:
            raise Refused(Code.OVER_PRECISE, name, raw)
    if not -(2**63) < value < 2**63:
        raise Refused(Code.OUT_OF_RANGE, name, raw)
    return int(value)


def _rescaled(e: Record, policy: Any) -> Record:
    """Bring a record's raw values to the instrument's present scales."""
    for name, scale in SCALED.items():
        e[name] = _to_scale(int(e[name]), int(e[scale]), int(policy[scale]), name)
        e[scale] = policy[scale]
    return e


def _says_the_same(first: Record, e: Record, name: str) -> bool:
    """Whether a field means the same in both: what came has the scale of its own digits, what is booked the instrument's."""
    if name in SCALED:
        scale = SCALED[name]
        return bool(int(first[name]) * 10 ** int(e[scale]) == int(e[name]) * 10 ** int(first[scale]))
    return all(int(first[part]) == int(e[part]) for part in (name, *KEPT_WITH.get(name, ())))


def _economics(e: Record) -> tuple[int, ...]:
    """Everything that an amend may change."""
    return tuple(int(e[name]) for name in (*GIVEN, "fee_scale", "fee_currency_id"))
