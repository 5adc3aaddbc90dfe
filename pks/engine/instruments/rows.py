"""Definitions as the fixed-size rows of the reference-data segment and of the kernels' policies.

Owns the way from text to `layouts.refdata`. The worker that folds REFDATA events calls it, and so does each accumulator for its own
copy. It looks ids up in what it is given, and may not keep any.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pks.base.errors import Code
from pks.engine.instruments.class_defaults import asset_class_id
from pks.engine.instruments.definitions import Account, Book, ClassMethod, Currency, Definition, Entity, Instrument, Source, subject_of
from pks.engine.instruments.errors import UnknownReference
from pks.layouts.codes import Method, Oversell, Subject
from pks.layouts.refdata import BOOK_POLICY, INSTRUMENT_POLICY, METHOD_CHANGE, ROW

DATE_FIRST = -(2**31)
"""Effective date of a book's first lot method: before every trade, however late it is entered."""

_UNKNOWN = {
    Subject.CURRENCY: Code.UNKNOWN_CURRENCY,
    Subject.BOOK: Code.UNKNOWN_BOOK,
    Subject.ACCOUNT: Code.UNKNOWN_ACCOUNT,
    Subject.INSTRUMENT: Code.UNKNOWN_INSTRUMENT,
}


class Ids(Protocol):
    """Where rows find the ids of what they name."""

    def id_of(self, subject: Subject, code: str) -> int:
        """The row id of a code, 0 when there is none."""

    def zone_id(self, zone: str) -> int:
        """The place of a zone in the zone tables, 0 for UTC and for a zone that no definition has."""


def required_id(ids: Ids, subject: Subject, code: str, field: str) -> int:
    """The id of `code`, 0 for "". Raises UnknownReference."""
    if not code:
        return 0
    row_id = ids.id_of(subject, code)
    if not row_id:
        raise UnknownReference(_UNKNOWN.get(subject, Code.UNKNOWN_FIELD), field, code, f"no such {subject.name.lower()}")
    return row_id


def to_row(definition: Definition, ids: Ids, row_id: int, sequence: int) -> npt.NDArray[np.void]:
    """One refdata.ROW of a definition; texts that are only shown are cut at the field's bytes, never inside a character.

    sequence: of the REFDATA event; it is also definition_sequence. Raises UnknownReference.
    """
    rows = np.zeros(1, dtype=ROW)
    row: Any = rows[0]
    row["row_id"], row["subject"] = row_id, int(subject_of(definition))
    row["last_sequence"] = row["definition_sequence"] = sequence
    _set_text(row, code=definition.code[: ROW["code"].itemsize])
    match definition:
        case Instrument():
            _fill_instrument(row, definition, ids)
        case Book():
            _fill_book(row, definition, ids)
        case Entity():
            _set_text(row, symbol=definition.name, currency=definition.functional_currency, zone=definition.timezone)
            row["currency_id"] = required_id(ids, Subject.CURRENCY, definition.functional_currency, "functional_currency")
        case Account():
            _set_text(
                row, symbol=definition.custodian, currency=definition.currency, parent=definition.entity, group=definition.account_type
            )
            row["entity_id"] = required_id(ids, Subject.ENTITY, definition.entity, "entity")
            row["currency_id"] = required_id(ids, Subject.CURRENCY, definition.currency, "currency")
        case Currency():
            _set_text(row, symbol=definition.name)
            row["money_scale"] = definition.minor_digits
        case Source():
            _set_text(row, symbol=definition.name)
            row["recurs"] = definition.recurs
        case ClassMethod():
            _set_text(row, parent=definition.book, asset_class=definition.asset_class)
            row["method"] = Method[definition.method] if definition.method else 0
            row["asset_class_id"] = asset_class_id(definition.asset_class)
    return rows


def _fill_instrument(row: Any, instrument: Instrument, ids: Ids) -> None:
    _set_text(
        row,
        symbol=instrument.symbol,
        isin=instrument.isin,
        figi=instrument.figi,
        cusip=instrument.cusip,
        ric=instrument.ric,
        asset_class=instrument.asset_class,
        currency=instrument.currency,
        pnl_currency=instrument.pnl_currency,
        base_currency=instrument.traded_currency,
        underlying=instrument.underlying,
    )
    policy: Any = instrument_policy(instrument, ids)[0]
    shared = ("contract", "price_scale", "qty_scale", "money_scale", "negative_price", "zero_price", "cleared", "asset_class_id")
    for name in (*shared, "multiplier_numerator", "multiplier_denominator", "pnl_currency_id", "base_currency_id"):
        row[name] = policy[name]
    row["currency_id"] = required_id(ids, Subject.CURRENCY, instrument.currency, "currency")


def _fill_book(row: Any, book: Book, ids: Ids) -> None:
    _set_text(row, symbol=book.name, currency=book.report_currency, parent=book.entity, group=book.desk, zone=book.zone)
    row["method"], row["oversell"], row["fees_in_cost"] = Method[book.method], Oversell[book.oversell], book.fees_in_cost
    row["entity_id"] = required_id(ids, Subject.ENTITY, book.entity, "entity")
    row["currency_id"] = required_id(ids, Subject.CURRENCY, book.report_currency, "report_currency")


def instrument_policy(instrument: Instrument, ids: Ids) -> npt.NDArray[np.void]:
    """One refdata.INSTRUMENT_POLICY; chain, last_action_date and first_key are the owner's to carry over. Raises UnknownReference."""
    rows = np.zeros(1, dtype=INSTRUMENT_POLICY)
    row: Any = rows[0]
    row["known"] = 1
    row["contract"] = instrument.contract
    for name in ("price_scale", "qty_scale", "money_scale", "negative_price", "zero_price", "cleared"):
        row[name] = getattr(instrument, name)
    row["asset_class_id"] = asset_class_id(instrument.asset_class)
    row["pnl_currency_id"] = required_id(ids, Subject.CURRENCY, instrument.pnl_currency, "currency")
    row["base_currency_id"] = required_id(ids, Subject.CURRENCY, instrument.traded_currency, "base_currency")
    row["value_digits"] = instrument.value_digits
    row["multiplier_numerator"], row["multiplier_denominator"] = instrument.money_factor.numerator, instrument.money_factor.denominator
    row["first_key"] = -1
    return rows


def book_policy(book: Book, ids: Ids) -> npt.NDArray[np.void]:
    """One refdata.BOOK_POLICY; first_key is the owner's to carry over. Raises UnknownReference."""
    rows = np.zeros(1, dtype=BOOK_POLICY)
    row: Any = rows[0]
    row["known"] = 1
    row["oversell"], row["fees_in_cost"] = Oversell[book.oversell], book.fees_in_cost
    row["zone_id"] = ids.zone_id(book.zone)
    row["entity_id"] = required_id(ids, Subject.ENTITY, book.entity, "entity")
    row["first_key"] = -1
    return rows


def to_policy(definition: Definition, ids: Ids) -> npt.NDArray[np.void] | None:
    """The policy row of an instrument or a book; None for what kernels need no policy of."""
    match definition:
        case Instrument():
            return instrument_policy(definition, ids)
        case Book():
            return book_policy(definition, ids)
    return None


def method_change(definition: Definition, ids: Ids, effective_date: int, sequence: int) -> npt.NDArray[np.void] | None:
    """One refdata.METHOD_CHANGE of a Book (class 0) or ClassMethod (method 0: back to the book's own); None for other definitions.

    effective_date: days since 1970-01-01 from which it holds; DATE_FIRST for a first definition. Raises UnknownReference.
    """
    match definition:
        case Book():
            book, class_id, method = definition.code, 0, int(Method[definition.method])
        case ClassMethod():
            book, class_id = definition.book, asset_class_id(definition.asset_class)
            method = int(Method[definition.method]) if definition.method else 0
        case _:
            return None
    rows = np.zeros(1, dtype=METHOD_CHANGE)
    rows[0] = (required_id(ids, Subject.BOOK, book, "book"), class_id, effective_date, method, sequence)
    return rows


def cut(text: str, bytes_max: int) -> bytes:
    """UTF-8 of as much of `text` as fits, whole characters only."""
    return text.encode()[:bytes_max].decode(errors="ignore").encode()


def _set_text(row: Any, **texts: str) -> None:
    for name, text in texts.items():
        row[name] = cut(text, ROW[name].itemsize)
