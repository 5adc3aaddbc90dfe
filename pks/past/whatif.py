"""What rows of the trade input would do to positions: the fold goes on with them in memory, and what changed is said.

Owns the comparison of before and after. It changes the fold and the view that it is given, so the worker calls it in a child of its own,
which then ends; nothing is booked and no file is written.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from pks.base.clock import Clock, SystemClock, format_time
from pks.base.errors import MEANINGS, Code, PksError, Refused
from pks.base.units import round_half_even, to_int
from pks.client.bulk import Outcome
from pks.edges.files.forms import Options, object_row
from pks.edges.files.rows import RowError, TradeRow, row_error
from pks.engine.instruments.definitions import Instrument
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.positions.view import PositionView, plain, total
from pks.layouts.codes import Contract, Subject
from pks.layouts.slots import POSITION_SLOT
from pks.past.answers import failed
from pks.past.keeper import Keeper
from pks.past.lots import lot_row, plain_money
from pks.past.moment import lots_now
from pks.past.names import CatalogueNames
from pks.past.questions import TOO_LARGE, WHATIF_ROWS_MAX, AnyAnswer, Failed, Imagined, Row, WhatIf
from pks.past.rehearsal import Rehearsal, gone, rehearse
from pks.past.trades import SHOWN_MATCHES, match_row

CORRECTIONS = ("CANCEL", "AMEND", "FEE")
VERSION_BYTES = 8
MARK_CHARACTERS_MAX = 64


def imagine(keeper: Keeper, asked: WhatIf, clock: Clock | None = None) -> AnyAnswer:
    """The answer. The keeper is of no further use: its fold has gone on with what never happened."""
    try:
        return _imagine(keeper, asked, clock or SystemClock())
    except (PksError, OSError) as error:
        return failed(error)


def _imagine(keeper: Keeper, asked: WhatIf, clock: Clock) -> AnyAnswer:
    if len(asked.rows) > WHATIF_ROWS_MAX:
        reason = f"{len(asked.rows)} rows, {WHATIF_ROWS_MAX} are answered at once"
        return Failed(code=TOO_LARGE, field="rows", value=str(len(asked.rows)), reason=reason)
    past = keeper.now()
    folded = keeper.positions(past, past.last)
    state = folded.shard.state
    before = state.keys[: state.meta[KEYS_COUNT]].copy()
    core = Rehearsal(past, folded, clock)
    rows = [_row(row, number, clock, asked.books) for number, row in enumerate(asked.rows, start=1)]
    outcomes = list(rehearse(core, rows))
    names = CatalogueNames(folded.catalogue)
    marks = _marks(names, asked.marks)
    state = folded.shard.state
    after = state.keys[: state.meta[KEYS_COUNT]]
    seen = None if asked.books is None else {names.catalogue.id_of(Subject.BOOK, code) for code in asked.books} - {0}
    changed = [k for k in range(len(after)) if k >= len(before) or _figures(before[k]) != _figures(after[k])]
    changed = [k for k in changed if seen is None or int(after[k]["book_id"]) in seen]
    changed = [k for k in changed if int(after[k]["last_sequence"])]
    found: dict[str, list[Row]] = {"before": [], "after": [], "changes": [], "lots": []}
    for k in changed:
        key = int(after[k]["book_id"]), int(after[k]["instrument_id"])
        terms, instrument = names.terms(*key), names.catalogue.instrument(key[1])
        now = PositionView.from_record(after[k], terms)
        was = PositionView.from_record(before[k], terms) if k < len(before) and int(before[k]["last_sequence"]) else None
        found["after"].append(_position(now, instrument, marks.get(key[1])))
        if was is not None:
            found["before"].append(_position(was, instrument, marks.get(key[1])))
        found["changes"].append(_change(was, now))
        own = {"book": now.book, "instrument": now.instrument}
        found["lots"] += [own | lot_row(past, instrument, lot) for lot in lots_now(folded, *key)]
    matches = [
        match_row(past, names, record)
        for (_, book_id, _), records in core.sets.items()
        if (seen is None or book_id in seen) and not gone(records)
        for record in records
        if int(record["kind"]) in SHOWN_MATCHES
    ]
    said = [_visible(outcome, past.records, seen)._asdict() for outcome in outcomes]
    return Imagined(sequence=past.last, outcomes=said, matches=matches, **found)


def _figures(key: Any) -> bytes:
    """What the slot of a key would show, but for its version."""
    shown: bytes = key.tobytes()[VERSION_BYTES : POSITION_SLOT.itemsize]
    return shown


# Rows and outcomes.


def _row(row: dict[str, Any], number: int, clock: Clock, books: tuple[str, ...] | None) -> TradeRow | RowError:
    """A row of the question, with an id and a time where it has none; refused where it names a book that the asker may not see."""
    read = object_row(row, number, number, Options())
    if not isinstance(read, TradeRow):
        return read
    for field in ("book", "to_book"):
        if books is not None and (named := getattr(read, field)) and named not in books:
            text = MEANINGS[Code.UNKNOWN_BOOK].text
            return row_error(Code.UNKNOWN_BOOK, text, line=number, row=number, field=field, value=named, trade_id=read.trade_id)
    if read.kind.upper() not in CORRECTIONS:
        now_ns = clock.wall_ns()
        read.trade_id = read.trade_id or read.lot_id or f"WHATIF-{now_ns}-{number}"
        if read.kind.upper() != "OPENING":
            read.trade_time = read.trade_time or format_time(now_ns)
    return read


def _visible(outcome: Outcome, records: Any, seen: set[int] | None) -> Outcome:
    """The outcome, as if the trade did not exist where it lies in a book that the asker may not see."""
    if seen is None or not outcome.sequence or int(records[outcome.sequence]["book_id"]) in seen:
        return outcome
    code = Code.UNKNOWN_TRADE
    return Outcome(outcome.line, outcome.trade_id, "REFUSED", 0, code.name, "trade_id", outcome.trade_id, MEANINGS[code].text)


# Figures.


def _marks(names: CatalogueNames, marks: dict[str, str]) -> dict[int, Fraction]:
    """By instrument id. Raises UnknownName, Refused."""
    found = {}
    for name, text in marks.items():
        instrument_id = names.instrument_id(name)
        try:
            mark = Decimal(text)
        except InvalidOperation:
            raise Refused(Code.NOT_A_NUMBER, "marks", text) from None
        if not mark.is_finite() or len(text) > MARK_CHARACTERS_MAX:
            raise Refused(Code.NOT_A_NUMBER, "marks", text)
        if mark <= 0 and names.catalogue.instrument(instrument_id).contract is Contract.INVERSE:
            raise Refused(Code.NOT_POSITIVE, "marks", text)
        found[instrument_id] = Fraction(mark)
    return found


def _position(view: PositionView, instrument: Instrument, mark: Fraction | None) -> Row:
    row = view.as_dict()
    return row if mark is None else row | {"unrealised": _unrealised(view, instrument, mark)}


def _unrealised(view: PositionView, instrument: Instrument, mark: Fraction) -> str:
    """What closing at the mark would realise, rounded as `pks calc lots` does it."""
    record = view.record
    quantity = Fraction(int(record["qty_raw"]), 10 ** int(record["qty_scale"]))
    cost = Fraction(to_int(int(record["cost_hi"]), int(record["cost_lo"])), 10**instrument.money_scale)
    if instrument.contract is not Contract.INVERSE:
        return plain_money(quantity * mark - cost, instrument)
    exact = quantity / mark * 10**instrument.money_scale
    return plain_money(cost - Fraction(round_half_even(exact.numerator, exact.denominator), 10**instrument.money_scale), instrument)


def _change(was: PositionView | None, now: PositionView) -> Row:
    """What a position gains in quantity, realised P&L and fees."""

    def gain(name: str) -> str:
        return plain(total([getattr(now, name), *([getattr(was, name).copy_negate()] if was is not None else [])]))

    old, new = was.fees if was is not None else {}, now.fees
    fees = {code: total([new.get(code, Decimal(0)), old.get(code, Decimal(0)).copy_negate()]) for code in sorted({*old, *new})}
    return {
        "book": now.book,
        "instrument": now.instrument,
        "currency": now.currency,
        "quantity": gain("quantity"),
        "realised_gross": gain("realised_gross"),
        "realised_net": gain("realised_net"),
        "fees": {code: plain(fee) for code, fee in fees.items() if fee},
    }
