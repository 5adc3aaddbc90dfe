"""The forms of trade files: which cell or key is which field, and the mappings of venues' own files.

Owns the recognition of a header or object and the way from cells to TradeRow. `trades` and `columns` call it. Source of the venues'
mappings: the notes that came with the recorded files (Binance prints have no fee and no order, so a fixed rule gives them; Hyperliquid
fills are taken as they are). It may not read a file or know reference data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pks.base.clock import format_time, time_from_ms
from pks.base.errors import Code, Refused
from pks.base.units import digits_of, format_scaled, parse_scaled
from pks.edges.files.csv_lines import Record
from pks.edges.files.rows import ALIASES, FIELDS, MULTI_LINE_FIELDS, RowError, TradeRow, field_of, row_error
from pks.engine.instruments.definitions import text_fault

PRINT_FEE_DIGITS = 3
"""A print's fee is 0.001 of price x quantity: three more digits than those two have."""

MICROSECOND_DIGITS = 16
"""A time since 1970 with so many digits counts microseconds; milliseconds have 13 until the year 2286."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a venue's own file does not say. Ignored for files in our form."""

    instrument: str = ""  # of a file of prints, required there
    quote_currency: str = ""  # of the fee of prints, required there
    books: tuple[str, ...] = ()  # a print goes to book (trade id modulo their number); a Hyperliquid fill to the first
    account: str = ""
    source: str = ""  # default: the venue's name


class PrintColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a file of prints. side: taker's side; maker: whether the buyer was the maker."""

    trade_id: str
    time: str
    price: str
    quantity: str
    side: str = ""
    maker: str = ""


PRINT_FORMS: tuple[PrintColumns, ...] = (
    PrintColumns(trade_id="agg_trade_id", time="ts_ms", side="taker_side", price="price", quantity="qty"),
    PrintColumns(trade_id="id", time="timestamp", side="side", price="price", quantity="amount"),
    PrintColumns(trade_id="id", time="time", maker="is_buyer_maker", price="price", quantity="qty"),
    PrintColumns(trade_id="agg_trade_id", time="transact_time", maker="is_buyer_maker", price="price", quantity="quantity"),
)
"""Binance prints: two recorded forms, then the public archives' trades and aggTrades files."""

_SIDES = {"buy": "BUY", "sell": "SELL"}
_MAKERS = {"true": "SELL", "false": "BUY"}  # the taker sells to a buyer who was the maker
_HYPERLIQUID_KEYS = frozenset({"coin", "px", "sz", "side", "time", "hash", "oid"})
_HYPERLIQUID_SIDES = {"A": "SELL", "B": "BUY"}
_DUPLICATE = "\0duplicate"


class FieldsForm:
    """Our own header, or the desk's, over cells."""

    def __init__(self, header: Sequence[str]) -> None:
        """header: as it stands in the file. Raises Refused for one that cannot be a trade file's."""
        fields = [field_of(name) for name in header]
        found = [field for field in fields if field]
        for field in found:
            if found.count(field) > 1:
                raise Refused(Code.BAD_ROW, field, ",".join(header), "two columns of the header give this field")
        if not found:
            reason = "no column of a trade file; the header must be comma-separated names such as trade_id, book, instrument"
            raise Refused(Code.BAD_ROW, "", ",".join(header), reason)
        if "trade_id" not in found and "lot_id" not in found:
            missing = [name for name in ("trade_id", "book", "instrument", "side", "quantity", "price", "trade_time") if name not in found]
            raise Refused(Code.MISSING_FIELD, "trade_id", ",".join(header), f"the header has no column {', '.join(missing)}")
        self.header = tuple(name.strip() for name in header)
        self.fields = tuple(fields)
        self.places = tuple((place, field) for place, field in enumerate(fields) if field)
        self.openings = "lot_id" in found and "open_date" in found and "kind" not in found and "trade_id" not in found
        self.signed = self.openings and "side" not in found
        self.assumed_utc = any(name.strip().lower() == "trade_time_utc" for name in header)

    def row(self, record: Record, row: int) -> TradeRow | RowError:
        """The row of a record."""
        cells = record.cells
        if record.fault:
            return row_error(record.code, record.fault, line=record.line, row=row)
        if len(cells) != len(self.fields):
            reason = f"{len(cells)} cells, the header has {len(self.fields)}"
            return row_error(Code.BAD_ROW, reason, line=record.line, row=row, value=",".join(cells))
        values: dict[str, Any] = {field: cells[place].strip(" \t") for place, field in self.places}
        if not all(map(str.isprintable, cells)):
            wrong = _text_error(((self.fields[i] or self.header[i], cell.strip(" \t")) for i, cell in enumerate(cells)), record.line, row)
            if wrong is not None:
                return with_trade_id(wrong, values.get("trade_id", ""))
        if self.openings:
            values["kind"] = "OPENING"
        if self.signed:
            values["side"], values["quantity"] = _signed(values["quantity"]) if "quantity" in values else ("", "")
        if self.assumed_utc:
            return TradeRow(line=record.line, row=row, trade_time_assumed_utc=True, **values)
        return TradeRow(line=record.line, row=row, **values)


class PrintsForm:
    """A venue's public prints as fills: a fixed rule for what prints lack (order, fee, book)."""

    def __init__(self, header: Sequence[str], columns: PrintColumns, options: Options) -> None:
        """Raises Refused where the options do not say what is traded."""
        for field in ("instrument", "quote_currency"):
            if not getattr(options, field):
                raise Refused(Code.MISSING_FIELD, field, "", "a file of prints does not say it: give it as an option")
        self.header = tuple(name.strip() for name in header)
        self.columns, self.options = columns, options
        self.source = options.source or "BINANCE"
        self._place = {name: self.header.index(getattr(columns, name)) for name in columns.__struct_fields__ if getattr(columns, name)}
        self._run: tuple[int, str] | None = None
        self._run_id = ""

    def place(self, name: str) -> int:
        """The column of a member of PrintColumns, -1 when this form has none."""
        return self._place.get(name, -1)

    def row(self, record: Record, row: int) -> TradeRow | RowError:
        """The row of a record, as part of the file's order: the run of same-side trades of a millisecond goes on from the last row."""
        made = self.row_alone(record, row)
        if isinstance(made, TradeRow):
            self.run_on(made)
        return made

    def run_on(self, made: TradeRow) -> None:
        """Give `made` the order id of its run, which it opens when its millisecond or side is another."""
        run = (parse_ms(made), made.side)
        if run != self._run:
            self._run, self._run_id = run, made.trade_id
        made.order_id = self._run_id

    def row_alone(self, record: Record, row: int) -> TradeRow | RowError:
        """The row of a record without its order id."""
        cells = record.cells
        if record.fault:
            return row_error(record.code, record.fault, line=record.line, row=row)
        if len(cells) != len(self.header):
            reason = f"{len(cells)} cells, the header has {len(self.header)}"
            return row_error(Code.BAD_ROW, reason, line=record.line, row=row, value=",".join(cells))
        if not all(map(str.isprintable, cells)):
            wrong = _text_error(zip(self.header, cells, strict=True), record.line, row)
            if wrong is not None:
                return wrong
        at = {name: cells[place].strip(" \t") for name, place in self._place.items()}
        trade_id = at["trade_id"]
        if not is_print_number(trade_id):
            return row_error(
                Code.NOT_A_NUMBER, "a print's id is a whole number", line=record.line, row=row, field=self.columns.trade_id, value=trade_id
            )
        try:
            trade_time = time_of_count(at["time"], self.columns.time)
        except Refused as refused:
            return row_error(
                refused.code, refused.reason, line=record.line, row=row, field=refused.field, value=refused.value, trade_id=trade_id
            )
        side = _MAKERS.get(at["maker"].lower(), at["maker"]) if "maker" in at else _SIDES.get(at["side"].lower(), at["side"])
        options = self.options
        return TradeRow(
            line=record.line,
            row=row,
            trade_id=trade_id,
            source=self.source,
            venue="BINANCE",
            account=options.account,
            book=options.books[int(trade_id) % len(options.books)] if options.books else "",
            instrument=options.instrument,
            side=side,
            quantity=at["quantity"],
            price=at["price"],
            fee=print_fee(at["price"], at["quantity"]),
            fee_currency=options.quote_currency,
            trade_time=trade_time,
        )


Form = FieldsForm | PrintsForm


def form_of(header: Sequence[str], options: Options) -> Form:
    """The form of a CSV file by its header. Raises Refused."""
    names = {name.strip() for name in header}
    for columns in PRINT_FORMS:
        needed = {getattr(columns, name) for name in columns.__struct_fields__ if getattr(columns, name)}
        if needed <= names and "trade_id" not in names:
            return PrintsForm(header, columns, options)
    return FieldsForm(header)


def object_row(value: object, line: int, row: int, options: Options) -> TradeRow | RowError:
    """The row of one JSON value: an object in our keys, or a Hyperliquid fill. Numbers are their literal text."""
    if not isinstance(value, dict):
        return row_error(Code.BAD_ROW, "not a JSON object", line=line, row=row, value=value)
    if _DUPLICATE in value:
        return row_error(Code.BAD_ROW, "the key is given twice", line=line, row=row, field=str(value[_DUPLICATE]))
    if value.keys() >= _HYPERLIQUID_KEYS:
        return _hyperliquid_row(value, line, row, options)
    values: dict[str, Any] = {}
    assumed_utc = False
    for key, item in value.items():
        field = field_of(key)
        if not field or item is None:
            continue
        if field in values:
            return _named(row_error(Code.BAD_ROW, "two keys give this field", line=line, row=row, field=field), value)
        if isinstance(item, dict) and field == "instrument":
            values["instrument_terms"] = msgspec.json.encode(item, order="deterministic").decode()
            continue
        if not isinstance(item, str):
            return _named(row_error(Code.BAD_ROW, "neither text nor a number", line=line, row=row, field=field, value=item), value)
        assumed_utc = assumed_utc or key.strip().lower() == "trade_time_utc"
        values[field] = item.strip(" \t")
    if not all(map(str.isprintable, values.values())):
        wrong = _text_error(values.items(), line, row)
        if wrong is not None:
            return with_trade_id(wrong, values.get("trade_id", ""))
    return TradeRow(line=line, row=row, trade_time_assumed_utc=assumed_utc, **values)


def _named(wrong: RowError, value: dict[str, Any]) -> RowError:
    """The error with the trade id of its object, where that has one."""
    ids = [item for key, item in value.items() if field_of(key) == "trade_id" and isinstance(item, str)]
    return with_trade_id(wrong, ids[0].strip(" \t") if ids else "")


def unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object_pairs_hook that marks an object with two equal keys; object_row refuses it."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                made[_DUPLICATE] = key
                break
            seen.add(key)
    return made


def _hyperliquid_row(value: dict[str, object], line: int, row: int, options: Options) -> TradeRow | RowError:
    texts: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, str):
            texts[key] = item
        elif key in _HYPERLIQUID_KEYS:
            return row_error(Code.BAD_ROW, "neither text nor a number", line=line, row=row, field=key, value=item)
    # The recordings have no tid; hash, order id, price and size tell the fills of one hash apart.
    trade_id = texts.get("tid") or f"{texts['hash']}:{texts['oid']}:{texts['px']}:{texts['sz']}"
    wrong = _text_error(texts.items(), line, row) if not all(map(str.isprintable, texts.values())) else None
    if wrong is not None:
        return with_trade_id(wrong, trade_id)
    try:
        trade_time = format_time(time_from_ms(texts["time"], "time"))
    except Refused as refused:
        return row_error(refused.code, refused.reason, line=line, row=row, field=refused.field, value=refused.value, trade_id=trade_id)
    return TradeRow(
        line=line,
        row=row,
        trade_id=trade_id,
        source=options.source or "HYPERLIQUID",
        venue="HYPERLIQUID",
        order_id=texts["oid"],
        account=options.account,
        book=options.books[0] if options.books else "",
        instrument=texts["coin"],
        side=_HYPERLIQUID_SIDES.get(texts["side"], texts["side"]),
        quantity=texts["sz"],
        price=texts["px"],
        fee=texts.get("fee", ""),
        fee_currency=texts.get("feeToken", "USDC") if texts.get("fee") else "",
        trade_time=trade_time,
        note=texts.get("dir", ""),
    )


def is_print_number(text: str) -> bool:
    """Whether `text` is a print's id: digits that fit 18 places."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def time_of_count(text: str, field: str) -> str:
    """RFC 3339 of a count of milliseconds, or of microseconds where it has as many digits. Raises Refused."""
    if len(text) >= MICROSECOND_DIGITS and text.isascii() and text.isdigit():
        milliseconds, rest = text[:-3], text[-3:]
        return format_time(time_from_ms(milliseconds, field) + int(rest) * 1000)
    return format_time(time_from_ms(text, field))


def parse_ms(made: TradeRow) -> int:
    """The millisecond of a row whose time was made by time_of_count, as a number that sorts."""
    day, _, clock = made.trade_time.partition("T")
    whole, _, fraction = clock.rstrip("Z").partition(".")
    return int(day.replace("-", "") + whole.replace(":", "") + fraction.ljust(3, "0")[:3])


def print_fee(price: str, quantity: str) -> str:
    """0.1 percent of price x quantity, exact; "" where one of the two is no number, which is refused on its own."""
    try:
        price_digits, quantity_digits = digits_of(price), digits_of(quantity)
        product = parse_scaled(price, price_digits, 128) * parse_scaled(quantity, quantity_digits, 128)
    except ValueError:
        return ""
    return format_scaled(product, price_digits + quantity_digits + PRINT_FEE_DIGITS)


def with_trade_id(wrong: RowError, trade_id: str) -> RowError:
    """The error with the id of its row."""
    wrong.trade_id = row_error(wrong.code, "", trade_id=trade_id).trade_id
    return wrong


def _text_error(cells: Iterable[tuple[str, str]], line: int, row: int) -> RowError | None:
    for field, text in cells:
        fault = text_fault(text, "\t\n" if field in MULTI_LINE_FIELDS else "")
        if fault is not None:
            return row_error(fault[0], fault[1], line=line, row=row, field=field, value=text)
    return None


def _signed(quantity: str) -> tuple[str, str]:
    """(side, unsigned quantity) of a signed one."""
    if quantity.startswith("-"):
        return "SELL", quantity[1:]
    return ("BUY" if quantity else ""), quantity


assert ALIASES.keys().isdisjoint(FIELDS), "an alias is told from a field"
