"""A row of a trade file as text, and what a row that cannot be read gives instead.

Owns the two structs and the words of the trade input: its fields and their aliases. The file readers make them, the booking rooms
take them. No number is made here: a field is the text that stood in the file, without blanks around it, "" where there was none.
"""

from __future__ import annotations

import msgspec

from pks.base.errors import Code

VALUE_CHARACTERS_MAX = 120
"""How much of an offending value goes into a RowError."""


class TradeRow(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One row in the fields of the trade input (`interfaces.md`). line: where it starts, the header being 1; row: its number, from 1."""

    line: int
    row: int
    trade_id: str = ""
    source: str = ""
    leg: str = ""
    kind: str = ""
    book: str = ""
    to_book: str = ""
    instrument: str = ""
    side: str = ""
    quantity: str = ""
    price: str = ""
    at: str = ""
    fee: str = ""
    fee_currency: str = ""
    account: str = ""
    counterparty: str = ""
    venue: str = ""
    order_id: str = ""
    trade_time: str = ""
    business_date: str = ""
    settle_date: str = ""
    open_date: str = ""
    parent_id: str = ""
    lot_id: str = ""
    note: str = ""
    instrument_terms: str = ""  # an `instrument` object of an OTC trade, as canonical JSON
    trade_time_assumed_utc: bool = False  # the header said so (trade_time_utc): a time without a zone is UTC


class RowError(msgspec.Struct, kw_only=True, gc=False):
    """A row, or with row 0 a whole file, that is not understood."""

    line: int
    row: int
    code: Code
    field: str
    value: str
    reason: str
    trade_id: str = ""


FIELDS: tuple[str, ...] = tuple(
    name for name in TradeRow.__struct_fields__ if name not in ("line", "row", "instrument_terms", "trade_time_assumed_utc")
)
"""The columns of a trade file, in the order of the struct."""

ALIASES: dict[str, str] = {
    "trade_time_utc": "trade_time",
    "book_id": "book",
    "to_book_id": "to_book",
    "account_id": "account",
    "instrument_id": "instrument",
    "qty": "quantity",
    "fee_ccy": "fee_currency",
    "block_trade_id": "parent_id",
    "child_trade_id": "trade_id",
    "as_of": "business_date",
    "open_price": "price",
}
"""The demo desk's headers for the same fields."""
assert set(ALIASES.values()) <= set(FIELDS), "an alias names a field"
assert not ALIASES.keys() & set(FIELDS), "a field is no alias"

MULTI_LINE_FIELDS = frozenset({"note"})
"""Fields whose text may hold line ends and tabs."""


def field_of(column: str) -> str:
    """The field that a column's name stands for, in any case; "" for a column that is not ours."""
    name = column.strip().lower()
    name = ALIASES.get(name, name)
    return name if name in _FIELD_SET else ""


def cut(value: object) -> str:
    """The offending value as far as it goes into an error: what is not UTF-8 shown as \\udcXX escapes."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."
    return text.encode("utf-8", "backslashreplace").decode()


def row_error(code: Code, reason: str, *, line: int = 0, row: int = 0, field: str = "", value: object = "", trade_id: str = "") -> RowError:
    """A RowError with its value cut to a bound."""
    return RowError(line=line, row=row, code=code, field=field, value=cut(value), reason=reason, trade_id=cut(trade_id))


_FIELD_SET = frozenset(FIELDS)
