"""Events as objects with names and decimal text: what `pks journal dump` prints, and what the independent model reads.

Owns the words of a dumped event. Takes a record, its group's text and a catalogue with every name in it; reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pks.base.clock import format_date
from pks.base.units import format_scaled
from pks.engine.booking.keys import LONG_ID_MARK
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Book, ClassMethod, Instrument, decode
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.detail import group_at, text_of

WITH_QUANTITY = (Kind.TRADE, Kind.AMEND, Kind.CANCEL, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
PRICED = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.FIXING)


def dump_event(record: Any, catalogue: Catalogue, text: bytes = b"") -> dict[str, Any]:
    """One event (not a DETAIL) as an object: names, not ids; decimals as text; absent values None.

    record: one EVENT; text: what its group's DETAIL records carry. An `original` or `lot` is a sequence.
    """
    e, kind, flags = record, Kind(int(record["kind"])), Flag(int(record["flags"]))
    details = _details(text) if kind != Kind.REFDATA else {}
    trade_id = bytes(e["trade_id"])
    long_id = trade_id.startswith(LONG_ID_MARK)
    dumped: dict[str, Any] = {
        "sequence": int(e["sequence"]),
        "kind": kind.name,
        "flags": [flag.name for flag in Flag if flag in flags],
        "recorded_ns": int(e["recorded_ns"]),
        "epoch": int(e["epoch"]),
        "group": [int(e["group_index"]), int(e["group_count"])],
        "book": _code(catalogue, Subject.BOOK, e["book_id"]),
        "to_book": _code(catalogue, Subject.BOOK, e["to_book_id"]),
        "instrument": _code(catalogue, Subject.INSTRUMENT, e["instrument_id"]),
        "account": _code(catalogue, Subject.ACCOUNT, e["account_id"]),
        "to_account": _code(catalogue, Subject.ACCOUNT, e["to_account_id"]),
        "source": _code(catalogue, Subject.SOURCE, e["source_id"]) or "",
        "trade_id": str(details["trade_id"]) if long_id and "trade_id" in details else trade_id.decode(errors="backslashreplace"),
        "leg": int(e["leg"]),
        "side": Side(int(e["side"])).name if e["side"] else None,
        "quantity": format_scaled(int(e["qty_raw"]), int(e["qty_scale"])) if kind in WITH_QUANTITY else None,
        "price": format_scaled(int(e["price_raw"]), int(e["price_scale"])) if _has_price(e, kind, flags) else None,
        "fee": format_scaled(int(e["fee_raw"]), int(e["fee_scale"])) if Flag.HAS_FEE in flags else None,
        "fee_currency": _code(catalogue, Subject.CURRENCY, e["fee_currency_id"]),
        "trade_time_ns": int(e["trade_time_ns"]),
        "effective_date": format_date(int(e["effective_date"])),
        "lot_date": format_date(int(e["lot_date"])) if e["lot_date"] else None,
        "settle_date": format_date(int(e["settle_date"])) if e["settle_date"] else None,
        "original": int(e["original"]) or None,
        "lot": int(e["lot"]) or None,
        "lot_leg": int(e["lot_leg"]),
    }
    if kind == Kind.ACTION:
        dumped["numerator"], dumped["denominator"] = int(e["qty_raw"]), int(e["price_raw"])
        has_cash = Flag.HAS_CASH_PRICE in flags
        dumped["cash_price"] = format_scaled(int(e["fee_raw"]), int(e["price_scale"])) if has_cash else None
    if kind == Kind.REFDATA:
        dumped["definition"] = dump_definition(decode(text))
    details.pop("trade_id", None)
    if details:
        dumped["details"] = details
    return dumped


def dump_events(records: Any, mask: int, first: int, last: int, catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """Events first..last (event n at records[n & mask]), DETAIL records joined to their events."""
    for sequence in range(first, last + 1):
        record = records[sequence & mask]
        if int(record["kind"]) == Kind.DETAIL:
            continue
        with_text = int(record["flags"]) & Flag.HAS_DETAIL
        yield dump_event(record, catalogue, text_of(group_at(records, mask, sequence)) if with_text else b"")


def dump_definition(definition: AnyDefinition) -> dict[str, Any]:
    """A definition as an object; an instrument's multiplier with its quote factor as one exact ratio."""
    dumped: dict[str, Any] = msgspec.to_builtins(definition)
    dumped["id"] = dumped.pop("code")
    if isinstance(definition, Instrument):
        dumped["kind"] = definition.contract.name
        dumped["pnl_currency"] = definition.pnl_currency
        dumped["base_currency"] = definition.traded_currency or None
        dumped["multiplier_numerator"] = definition.money_factor.numerator
        dumped["multiplier_denominator"] = definition.money_factor.denominator
    elif isinstance(definition, Book):
        dumped["fees_in_cost"] = definition.fees_in_cost
    elif isinstance(definition, ClassMethod):
        dumped["method"] = definition.method
    return dumped


def _has_price(e: Any, kind: Kind, flags: Flag) -> bool:
    return kind in PRICED or (kind in (Kind.AMEND, Kind.CANCEL) and not e["to_book_id"]) or Flag.HAS_PRICE in flags


def _code(catalogue: Catalogue, subject: Subject, row_id: Any) -> str | None:
    definition = catalogue.get(subject, int(row_id)) if row_id else None
    return definition.code if definition is not None else None


def _details(text: bytes) -> dict[str, Any]:
    details = msgspec.json.decode(text) if text else {}
    return details if isinstance(details, dict) else {"text": details}
