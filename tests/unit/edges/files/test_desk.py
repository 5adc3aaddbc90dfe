"""Desk folders: the packaged one whole, small ones, and broken ones row by row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pks.base.errors import Code, Refused
from pks.edges.files.coins import missing_perpetuals, spot_pair
from pks.edges.files.desk import Desk, packaged_desk, read_desk
from pks.edges.files.rows import TradeRow
from pks.engine.instruments import AnyDefinition, Book, Catalogue, Currency, Instrument, Route, Source, decode, encode, subject_of
from pks.layouts.codes import Recurs, Subject

ENTITIES = "entity_id,functional_ccy,timezone\nE,USD,UTC+2\n"
BOOKS = "book_id,entity_id,lot_method,class_overrides,report_ccy,allow_short\n"


def fold(definitions: list[AnyDefinition]) -> Catalogue:
    catalogue = Catalogue()
    for sequence, definition in enumerate(definitions, start=1):
        catalogue.apply(subject_of(definition), catalogue.next_id(subject_of(definition)), definition, sequence)
    return catalogue


def desk_of(folder: Path, known: Catalogue | None = None, **texts: str) -> Desk:
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return read_desk(folder, known)


def test_the_packaged_desk_whole() -> None:
    desk = read_desk(packaged_desk())
    assert desk.errors == []
    assert desk.warnings == []
    counts = Counter(subject_of(definition).name for definition in desk.definitions)
    assert counts == {
        "CURRENCY": 8, "ENTITY": 3, "BOOK": 10, "ACCOUNT": 21, "INSTRUMENT": 31, "SOURCE": 3, "CLASS_METHOD": 2,
    }  # fmt: skip
    catalogue = fold(desk.definitions)
    assert [decode(encode(definition)) for definition in desk.definitions] == desk.definitions
    assert catalogue.method_of(catalogue.id_of(Subject.BOOK, "US-DRV"), "EQUITY_OPTION") == "AVERAGE"
    assert [path.name for path in desk.trade_files] == ["trades.csv", "allocations.csv"]
    book = catalogue.book(catalogue.id_of(Subject.BOOK, "CR-SPOT"))
    assert (book.method, book.oversell, book.zone) == ("AVERAGE", "REJECT", "UTC+4")


def test_opening_lots_of_the_packaged_desk() -> None:
    lots = read_desk(packaged_desk()).opening_lots
    assert len(lots) == 27
    short = lots[2]
    assert (short.kind, short.lot_id, short.side, short.quantity, short.price) == ("OPENING", "L003", "SELL", "20000", "175.20")
    assert (short.open_date, short.business_date, short.trade_id) == ("2025-02-24", "2025-03-13", "")


def test_every_figure_of_the_desk_fits_its_instrument() -> None:
    desk = read_desk(packaged_desk())
    catalogue = fold(desk.definitions)
    from pks.base.units import parse_scaled
    from pks.edges.files.trades import read_trades

    rows = [*desk.opening_lots, *(row for path in desk.trade_files[:1] for row in read_trades(path))]
    assert len(rows) == 48
    for row in rows:
        assert isinstance(row, TradeRow)
        instrument = catalogue.instrument(catalogue.find_instrument(row.instrument))
        parse_scaled(row.quantity, instrument.qty_scale)
        parse_scaled(row.price, instrument.price_scale)


def test_mistakes_are_told_with_their_place_and_the_rest_goes_on(tmp_path: Path) -> None:
    instruments = (
        "instrument_id,asset_class,symbol,currency,settle_ccy,multiplier,price_scale,isin\n"
        "GOOD,EQUITY,G,USD,USD,1,,\n"
        "ZERO,EQUITY,Z,USD,USD,0,,\n"
        "RAGGED,EQUITY\n"
        "SCALE,EQUITY,S,USD,USD,1,99,\n"
        "GOOD,EQUITY,G,USD,USD,1,,\n"
        ",EQUITY,N,USD,USD,1,,\n"
        "DOUBT,EQUITY,D,USD,USD,1,,US0378331006\n"
        "FORM,EQUITY,F,USD,USD,1,,US03\n"
        "LAST,WEATHER,L,USD,USD,1,,\n"
    )
    books = BOOKS + "B1,E,FIFO,,USD,true\nB2,NONE,FIFO,,USD,true\nB3,E,BEST,,USD,true\nB4,E,LIFO,BOND=FIFO,USD,true\nB5,E,LIFO,,USD,maybe\n"
    desk = desk_of(tmp_path, entities=ENTITIES, books=books, instruments=instruments)
    assert [(error.file, error.line, error.code, error.field, error.value) for error in desk.errors] == [
        ("books.csv", 3, Code.UNKNOWN_FIELD, "entity_id", "NONE"),
        ("books.csv", 4, Code.METHOD_UNKNOWN, "lot_method", "BEST"),
        ("books.csv", 5, Code.BAD_TEXT, "class_overrides", "BOND=FIFO"),
        ("books.csv", 6, Code.BAD_TEXT, "allow_short", "maybe"),
        ("instruments.csv", 3, Code.NOT_POSITIVE, "multiplier", "0"),
        ("instruments.csv", 4, Code.BAD_ROW, "", "RAGGED,EQUITY"),
        ("instruments.csv", 5, Code.OUT_OF_RANGE, "price_scale", "99"),
        ("instruments.csv", 7, Code.MISSING_FIELD, "instrument_id", ""),
        ("instruments.csv", 9, Code.BAD_TEXT, "isin", "US03"),
        ("instruments.csv", 6, Code.BAD_ROW, "", "GOOD"),
    ]
    assert all(error.reason and str(error).startswith(error.file) for error in desk.errors)
    assert [(warning.line, warning.field) for warning in desk.warnings] == [(8, "isin")]
    kept = [definition.code for definition in desk.definitions if isinstance(definition, Book | Instrument)]
    assert kept == ["B1", "GOOD", "DOUBT", "LAST"]
    fold(desk.definitions)


def test_other_files_of_a_folder(tmp_path: Path) -> None:
    desk = desk_of(
        tmp_path,
        entities=ENTITIES,
        books=BOOKS + "B1,E,,,,\n",
        currencies="currency,name,minor_digits\nUSD,US dollar,4\n",
        sources="source_id,recurs\nVENUE,DATE;SIDE\n",
        routes="venue,account,source,book_id,priority\nXNAS,,,B1,5\n,,OTHER,B1,\n",
        instruments="instrument_id,asset_class,currency,strange\nI,ETF,USD,kept\n",
    )
    assert desk.errors == []
    by_code = {definition.code: definition for definition in desk.definitions}
    assert by_code["USD"] == Currency(code="USD", name="US dollar", minor_digits=4)
    assert by_code["VENUE"] == Source(code="VENUE", recurs=Recurs.DATE | Recurs.SIDE)
    assert by_code["I"].extra == {"strange": "kept"}
    assert by_code["XNAS/*/*/5"] == Route(code="XNAS/*/*/5", venue="XNAS", book="B1", priority=5)
    assert isinstance(by_code["OTHER"], Source)
    book = by_code["B1"]
    assert isinstance(book, Book)
    assert (book.method, book.oversell, book.report_currency, book.zone) == ("FIFO", "FLIP", "USD", "UTC+2")


def test_a_folder_may_build_on_what_is_known(tmp_path: Path) -> None:
    known = fold(read_desk(packaged_desk()).definitions)
    desk = desk_of(
        tmp_path,
        known,
        books=BOOKS + "NEW,AUR-CY,FIFO,,USD,true\n",
        instruments="instrument_id,asset_class,symbol,currency,name\nAAPL.US,EQUITY,AAPL,EUR,x\n",
    )
    assert [definition.code for definition in desk.definitions] == ["NEW"]
    assert [(error.file, error.line, error.field, error.code) for error in desk.errors] == [
        ("instruments.csv", 2, "currency", Code.INVALID_TRANSITION)
    ]
    again = read_desk(packaged_desk(), known)
    assert (again.definitions, again.errors) == ([], [])


def test_books_without_an_entities_file(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, books=BOOKS + "B1,HOUSE,FIFO,,RUB,true\n")
    assert desk.errors == []
    assert [type(definition).__name__ for definition in desk.definitions] == ["Currency", "Entity", "Book"]
    assert [warning.value for warning in desk.warnings] == ["HOUSE"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.BAD_ROW),
        (b"\xff\xfeb\x00", Code.BAD_ENCODING),
        (bytes(range(256)) * 4, Code.BAD_ENCODING),
        (b"a,b\n1,2\n", Code.BAD_ROW),
        (b"book_id,book_id\n1,2\n", Code.BAD_ROW),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, data: bytes, code: Code) -> None:
    (tmp_path / "entities.csv").write_text(ENTITIES)
    (tmp_path / "books.csv").write_bytes(data)
    desk = read_desk(tmp_path)
    assert [(error.file, error.code) for error in desk.errors] == [("books.csv", code)]
    assert len(desk.definitions) == 2


def test_a_folder_without_any_file(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_desk(tmp_path)
    assert "instruments.csv" in refused.value.reason


def test_instruments_of_recorded_files() -> None:
    known = fold(read_desk(packaged_desk()).definitions)
    rows = [TradeRow(line=1, row=1, instrument=coin, source="HYPERLIQUID") for coin in ("BTC", "SUI", "SUI")]
    missing = missing_perpetuals(rows, known)
    assert [definition.code for definition in missing] == ["HYPERLIQUID", "SUI-PERP.HL"]
    assert spot_pair("XRPETH", "XRP", "ETH").traded_currency == "XRP"
