"""A desk folder: the CSV files of reference data and opening lots that a firm starts with, as definitions and trade rows.

Owns the meaning of the folder's files and columns. `pks ref load`, `pks run --desk` and the demo call it; the definitions come out in an
order in which each names only what stands before it. Gives no ids and books nothing. A row that is not understood gives a FileError and
the others go on; what names it is then refused where definitions are applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from pks.base.errors import Code, Refused
from pks.edges.files.csv_lines import Records
from pks.edges.files.forms import Options
from pks.edges.files.rows import RowError, TradeRow, cut
from pks.edges.files.trades import HEAD_BYTES, csv_lines, file_fault, read_trades
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import (
    ANY,
    Account,
    AnyDefinition,
    Book,
    ClassMethod,
    Currency,
    Entity,
    Instrument,
    Route,
    Source,
    check,
    identifier_warnings,
    price_rules,
    subject_of,
    truth,
)
from pks.engine.instruments.errors import BadDefinition, UnknownReference
from pks.layouts.codes import Recurs, Subject

RULED_FIELDS = (
    "price_scale",
    "qty_scale",
    "money_scale",
    "quote_factor",
    "negative_price",
    "zero_price",
    "cleared",
    "traded_asset",
    "contract_type",
)
"""Columns of instruments.csv that override what the asset class implies."""

ISO_MINOR_DIGITS = {
    **dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split(), 0),
    **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3),
    **dict.fromkeys(
        (
            "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNH CNY COP CRC "
            "CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS "
            "KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB "
            "PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD "
            "TWD TZS UAH USD UYU UZS VES WST XCD YER ZAR ZMW"
        ).split(),
        2,
    ),
}
"""Minor units of money, ISO 4217 list one."""

COIN_MINOR_DIGITS = {"USDT": 6, "USDC": 6}
"""Minor units of stablecoins (backoffice.md section 0); every other coin has COIN_DIGITS."""

COIN_DIGITS = 8

IMPLIED_CURRENCY, IMPLIED_ZONE = "USD", "UTC"
"""Of an entity that only a book names, in a folder without entities.csv."""


class FileError(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a desk file that is refused, or with `warning` accepted with a doubt. line 1 is the header, 0 the whole file."""

    file: str
    line: int
    code: Code
    field: str
    value: str
    reason: str
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        what = f"{self.field} = {self.value!r}: " if self.field else ""
        return f"{where}: {self.code.name}: {what}{self.reason}"


class Desk(msgspec.Struct, kw_only=True):
    """What a folder says. opening_lots: rows of kind OPENING. trade_files: files of trades beside the reference data, not read."""

    definitions: list[AnyDefinition]
    opening_lots: list[TradeRow]
    trade_files: list[Path]
    errors: list[FileError]
    warnings: list[FileError]


Cells = dict[str, str]


def packaged_desk() -> Path:
    """The folder of the demo desk."""
    return Path(str(files("pks") / "desk_data"))


def read_desk(folder: Path | str, known: Catalogue | None = None) -> Desk:
    """Read a desk folder; every file in it is optional, other files are left alone.

    known: the reference data that is there already, which the folder may name and change; what it only repeats is left out.

    Files: currencies.csv, entities.csv, books.csv, accounts.csv, instruments.csv, sources.csv, routes.csv, opening_lots.csv; trades.csv
    and allocations.csv are looked through for sources and currencies. Raises Refused where the folder has none of them.
    """
    return _Reader(Path(folder), known).read()


class _Reader:
    """One reading of a folder."""

    def __init__(self, folder: Path, known: Catalogue | None) -> None:
        self.folder = folder
        self.errors: list[FileError] = []
        self.warnings: list[FileError] = []
        self.currencies: dict[str, Currency] = {}
        self.used_currencies: dict[str, None] = {}
        self.sources: dict[str, None] = {}
        self.entities: dict[str, Entity] = {}
        # Definitions are tried on a catalogue of their own, so that one that names something missing is told with its line.
        self.catalogue = Catalogue()
        self.definitions: list[AnyDefinition] = []
        self.implied: list[Entity] = []
        self.taken: set[tuple[Subject, str]] = set()
        if known is not None:
            self._start_from(known)

    def _start_from(self, known: Catalogue) -> None:
        for subject in Subject:  # in this order each names only what stands before it
            for row_id, definition in known.rows(subject):
                self.catalogue.apply(subject, row_id, definition, 0)
                if isinstance(definition, Entity):
                    self.entities[definition.code] = definition

    def read(self) -> Desk:
        if not any((self.folder / name).is_file() for name in DESK_FILES):
            reason = f"has none of {', '.join(DESK_FILES)}"
            raise Refused(Code.MISSING_FIELD, "desk", str(self.folder), reason)
        made: dict[str, list[tuple[int, AnyDefinition]]] = {}
        for name, make in _MAKERS.items():
            made[name] = list(self._make_all(name, make))
        lots = self._opening_lots()
        self._look_through_trades()
        currencies = {definition.code: (line, definition) for line, definition in made["currencies.csv"]}
        for code in self.used_currencies:
            if code not in currencies and not self.catalogue.id_of(Subject.CURRENCY, code):
                self._take("currencies.csv", 0, Currency(code=code, minor_digits=_minor_digits(code)))
        for line, definition in currencies.values():
            self._take("currencies.csv", line, definition)
        named_sources = {definition.code for _, definition in made["sources.csv"]}
        for source in self.sources:
            if source not in named_sources and not self.catalogue.id_of(Subject.SOURCE, source):
                self._take("trades.csv", 0, Source(code=source))
        for entity in self.implied:
            self._take("books.csv", 0, entity)
        for name in ("sources.csv", "entities.csv", "books.csv", "accounts.csv", "instruments.csv", "routes.csv"):
            for line, definition in made[name]:
                self._take(name, line, definition)
        trade_files = [self.folder / name for name in ("trades.csv", "allocations.csv") if (self.folder / name).is_file()]
        return Desk(definitions=self.definitions, opening_lots=lots, trade_files=trade_files, errors=self.errors, warnings=self.warnings)

    def _take(self, name: str, line: int, definition: AnyDefinition) -> None:
        subject = subject_of(definition)
        if (subject, definition.code) in self.taken:
            self._wrong(
                name, line, Refused(Code.BAD_ROW, "", definition.code, f"{subject.name.lower()} {definition.code} is defined twice")
            )
            return
        row_id = self.catalogue.id_of(subject, definition.code)
        if row_id and self.catalogue.get(subject, row_id) == definition:
            return
        try:
            self.catalogue.apply(subject, row_id or self.catalogue.next_id(subject), definition, 0)
        except Refused as refused:
            self._wrong(name, line, refused)
            return
        self.taken.add((subject, definition.code))
        self.definitions.append(definition)

    def _make_all(self, name: str, make: Callable[[_Reader, Cells], list[AnyDefinition]]) -> Iterator[tuple[int, AnyDefinition]]:
        for line, cells in self._cells(name):
            try:
                definitions = make(self, cells)
                for definition in definitions:
                    check(definition)
            except Refused as refused:
                self._wrong(name, line, refused)
                continue
            for definition in definitions:
                if isinstance(definition, Instrument):
                    for field, value, reason in identifier_warnings(definition):
                        self.warnings.append(
                            FileError(file=name, line=line, code=Code.BAD_TEXT, field=field, value=value, reason=reason, warning=True)
                        )
                yield line, definition

    def _cells(self, name: str) -> Iterator[tuple[int, Cells]]:
        """(line, cells by column) of a file's rows; nothing where there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            fault = file_fault(head)
            if fault is not None:
                self.errors.append(_of_row(name, fault))
                return
            file.seek(0)
            records = Records(csv_lines(file, head))
            header = next(records)
            columns = [column.strip().lower() for column in header.cells]
            known = _ID_COLUMNS.get(name, "")
            problem = header.fault or (f"the header has no column {known}" if known and known not in columns else "")
            if not problem and len(set(columns)) != len(columns):
                problem = "the header names a column twice"
            if problem:
                self._wrong(name, header.line, Refused(Code.BAD_ROW, "", ",".join(header.cells), problem))
                return
            for record in records:
                if record.fault or len(record.cells) != len(columns):
                    reason = record.fault or f"{len(record.cells)} cells, the header has {len(columns)}"
                    self._wrong(name, record.line, Refused(record.code, "", ",".join(record.cells), reason))
                    continue
                yield record.line, dict(zip(columns, (cell.strip() for cell in record.cells), strict=True))

    def _opening_lots(self) -> list[TradeRow]:
        path = self.folder / "opening_lots.csv"
        lots: list[TradeRow] = []
        if not path.is_file():
            return lots
        for row in read_trades(path, "csv"):
            if isinstance(row, RowError):
                self.errors.append(_of_row(path.name, row))
                continue
            row.kind = row.kind or "OPENING"
            lots.append(row)
            self.note_currency(row.fee_currency)
            self.note_source(row.source)
        return lots

    def _look_through_trades(self) -> None:
        """Sources and fee currencies of the day's trades; what is wrong with a row is told where it is booked."""
        path = self.folder / "trades.csv"
        if path.is_file():
            for row in read_trades(path, "csv", Options()):
                if isinstance(row, TradeRow):
                    self.note_currency(row.fee_currency)
                    self.note_source(row.source)

    def note_currency(self, code: str) -> None:
        if code:
            self.used_currencies.setdefault(code)

    def note_source(self, code: str) -> None:
        if code:
            self.sources.setdefault(code)

    def _wrong(self, name: str, line: int, refused: Refused) -> None:
        field = _COLUMN_OF.get(name, {}).get(refused.field, refused.field)
        if field == "code":
            field = _ID_COLUMNS.get(name, field)
        value = cut(refused.value)
        self.errors.append(FileError(file=name, line=line, code=refused.code, field=field, value=value, reason=refused.reason))

    # --- one row each -----------------------------------------------------------------------------------------------------

    def currency(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        code = rest.take("currency", "code")
        digits = rest.take("minor_digits")
        if digits and not (digits.isascii() and digits.isdigit()):
            raise BadDefinition(Code.NOT_A_NUMBER, "minor_digits", digits, "must be a whole number")
        minor_digits = int(digits[:3]) if digits else _minor_digits(code)
        return [Currency(code=code, name=rest.take("name"), minor_digits=minor_digits, extra=rest.left())]

    def entity(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        entity = Entity(
            code=rest.take("entity_id"),
            functional_currency=rest.take("functional_ccy", "functional_currency"),
            **_texts(rest, Entity, "lei", "name", "country", "gaap", "timezone", "calendar"),
            extra=rest.left(),
        )
        self.note_currency(entity.functional_currency)
        self.entities[entity.code] = entity
        return [entity]

    def book(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        code, entity_code = rest.take("book_id"), rest.take("entity_id")
        report_currency = rest.take("report_ccy", "report_currency")
        entity = self.entities.get(entity_code) or self._implied_entity(entity_code, report_currency)
        overrides = rest.take("class_overrides")
        short = truth(rest.take("allow_short"), "allow_short", True)
        book = Book(
            code=code,
            entity=entity_code,
            method=rest.take("lot_method", "method").upper() or "FIFO",
            oversell=rest.take("oversell").upper() or ("FLIP" if short else "REJECT"),
            fees_in_cost=truth(rest.take("fees_in_cost"), "fees_in_cost", False),
            report_currency=report_currency or entity.functional_currency,
            zone=rest.take("timezone", "zone") or entity.timezone,
            **_texts(rest, Book, "name", "desk", "daily_loss_limit"),
            extra=rest.left(),
        )
        self.note_currency(book.report_currency)
        return [book, *_class_methods(code, overrides)]

    def _implied_entity(self, code: str, currency: str) -> Entity:
        """The owner of a book in a folder without entities.csv, where nothing else knows it."""
        if (self.folder / "entities.csv").is_file() or not code:
            raise UnknownReference(Code.UNKNOWN_FIELD, "entity_id", code, "no such entity")
        entity = Entity(code=code, functional_currency=currency or IMPLIED_CURRENCY, timezone=IMPLIED_ZONE)
        self.entities[code] = entity
        self.implied.append(entity)
        self.note_currency(entity.functional_currency)
        reason = f"there is no entities.csv: taken as an entity with {entity.functional_currency} and {IMPLIED_ZONE}"
        self.warnings.append(
            FileError(file="books.csv", line=0, code=Code.UNKNOWN_FIELD, field="entity_id", value=code, reason=reason, warning=True)
        )
        return entity

    def account(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        account = Account(
            code=rest.take("account_id"),
            entity=rest.take("entity_id"),
            account_type=rest.take("type", "account_type"),
            **_texts(rest, Account, "currency", "custodian", "bic", "purpose"),
            extra=rest.left(),
        )
        self.note_currency(account.currency)
        return [account]

    def instrument(self, cells: Cells) -> list[AnyDefinition]:
        instrument = instrument_of(cells)
        for currency in (instrument.currency, instrument.settle_ccy, instrument.base_currency):
            self.note_currency(currency)
        return [instrument]

    def source(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        recurs = rest.take("recurs")
        bits = 0
        for word in recurs.upper().replace(";", " ").replace("+", " ").split():
            if word not in Recurs.__members__:
                raise BadDefinition(Code.BAD_TEXT, "recurs", recurs, f"must be words of {', '.join(Recurs.__members__)}")
            bits |= Recurs[word]
        return [Source(code=rest.take("source_id", "source"), name=rest.take("name"), recurs=bits, extra=rest.left())]

    def route(self, cells: Cells) -> list[AnyDefinition]:
        rest = _Rest(cells)
        venue, account, source = (rest.take(name, f"{name}_id") or ANY for name in ("venue", "account", "source"))
        book = rest.take("book_id", "book")
        if not book:
            raise BadDefinition(Code.MISSING_FIELD, "book_id", "", "a rule must name the book")
        priority = rest.take("priority") or "0"
        if not priority.removeprefix("-").isdigit() or not priority.isascii():
            raise BadDefinition(Code.NOT_A_NUMBER, "priority", priority, "must be a whole number")
        if source != ANY:
            self.note_source(source)
        code = rest.take("route_id") or f"{venue}/{account}/{source}/{priority}"
        return [Route(code=code, venue=venue, account=account, source=source, book=book, priority=int(priority), extra=rest.left())]


class _Rest:
    """The cells of a row that were not taken yet."""

    def __init__(self, cells: Cells) -> None:
        self._cells = dict(cells)

    def take(self, *names: str) -> str:
        """The first of these columns that has a text; all of them count as taken."""
        texts = [self._cells.pop(name, "") for name in names]
        return next((text for text in texts if text), "")

    def left(self) -> Cells:
        return {name: text for name, text in self._cells.items() if text and name}


def instrument_of(cells: Cells) -> Instrument:
    """An instrument of the columns of instruments.csv, what they leave out from its asset class. Raises BadDefinition."""
    rest = _Rest(cells)
    asset_class = rest.take("asset_class").upper()
    ruled = {name: rest.take(name) for name in RULED_FIELDS}
    ruled["contract_type"] = ruled["contract_type"].upper() or "LINEAR"
    currency = rest.take("currency")
    texts: Any = {name: rest.take(name) for name in _INSTRUMENT_TEXTS}
    rules: Any = price_rules(asset_class, ruled)
    return Instrument(
        code=rest.take("instrument_id"),
        asset_class=asset_class,
        currency=currency,
        settle_ccy=rest.take("settle_ccy", "settle_currency") or currency,
        contract_type=ruled["contract_type"],
        multiplier=rest.take("multiplier") or "1",
        **texts,
        **rules,
        extra=rest.left(),
    )


def _class_methods(book: str, overrides: str) -> Iterator[ClassMethod]:
    """The overrides in "EQUITY_OPTION:AVERAGE;FX_SPOT:LIFO"."""
    for part in overrides.split(";"):
        if not part.strip():
            continue
        asset_class, colon, method = (word.strip().upper() for word in part.partition(":"))
        if not (asset_class and colon and method):
            raise BadDefinition(Code.BAD_TEXT, "class_overrides", overrides, "must be CLASS:METHOD, several parted by ;")
        yield ClassMethod(code=f"{book}:{asset_class}", book=book, asset_class=asset_class, method=method)


def _minor_digits(code: str) -> int:
    return ISO_MINOR_DIGITS.get(code, COIN_MINOR_DIGITS.get(code, COIN_DIGITS))


def _texts(rest: _Rest, kind: type[msgspec.Struct], *names: str) -> Any:
    assert set(names) <= set(kind.__struct_fields__), "a column of the same name"
    return {name: rest.take(name) for name in names}


def _of_row(name: str, error: RowError) -> FileError:
    return FileError(file=name, line=error.line, code=error.code, field=error.field, value=error.value, reason=error.reason)


_MAKERS: dict[str, Callable[[_Reader, Cells], list[AnyDefinition]]] = {
    "currencies.csv": _Reader.currency,
    "entities.csv": _Reader.entity,
    "books.csv": _Reader.book,
    "accounts.csv": _Reader.account,
    "instruments.csv": _Reader.instrument,
    "sources.csv": _Reader.source,
    "routes.csv": _Reader.route,
}
DESK_FILES = (*_MAKERS, "opening_lots.csv")
"""The files of a desk folder, in the order of reading."""

_ID_COLUMNS = {
    "entities.csv": "entity_id",
    "books.csv": "book_id",
    "accounts.csv": "account_id",
    "instruments.csv": "instrument_id",
}
"""The column without which a file is none of these."""

_COLUMN_OF = {
    "entities.csv": {"functional_currency": "functional_ccy"},
    "books.csv": {"method": "lot_method", "report_currency": "report_ccy", "entity": "entity_id", "zone": "timezone"},
    "accounts.csv": {"entity": "entity_id", "account_type": "type"},
    "routes.csv": {"book": "book_id"},
}
"""What a definition's field is called in a file, where the names differ."""

_SET_APART = ("code", "extra", "asset_class", "currency", "settle_ccy", "contract_type", "multiplier", *RULED_FIELDS)
_INSTRUMENT_TEXTS = tuple(name for name in Instrument.__struct_fields__ if name not in _SET_APART)
