"""The compiled way of a file's plain rows makes the very records that the border makes of their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pks.client.records import Translator, make_records, mark_rows, new_room
from pks.edges.files.columns import open_columns
from pks.edges.files.desk import packaged_desk, read_desk
from pks.edges.files.forms import Options
from pks.edges.files.rows import TradeRow
from pks.edges.files.trades import read_trades
from pks.engine.booking.border import Border
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Source, subject_of

HEADER = (
    "trade_id,source,leg,book,instrument,side,quantity,price,fee,fee_currency,account,venue,order_id,trade_time,business_date,settle_date\n"
)
LINES = (
    "T1,,,RU-EQ,SBER.MOEX,BUY,10,309.90,,,,,,2025-03-14T10:05:11Z,,",
    "T2,MANUAL,,RU-EQ,SBER.MOEX,SELL,10,309.9,1.25,,NSD-RU-01,,,2025-03-14T10:05:11.123456789Z,2025-03-14,2025-03-17",
    "TD,MANUAL,,RU-EQ,SBER.MOEX,SELL,10,309.9,1.25,RUB,NSD-RU-01,,,2025-03-14T10:05:11.123456789Z,2025-03-14,2025-03-17",
    "T3,MANUAL,2,RU-EQ,GAZP.MOEX,BUY,1,0.5,-0.5,RUB,NSD-RU-01,MISX,O-77,2025-03-14T10:05:11Z,,",
    "T4,BINANCE,,CR-PERP,SBERBANK?,BUY,1,1,,,,,,2025-03-14T10:05:11Z,,",
    "T5,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1.5,0,USD,,\"\",O6,2025-03-14T10:05:11Z,,",
    "T6,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,,,,MI\\SX,,2025-03-14T10:05:11Z,,",
    "T7,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,,,,MISX,,2025-03-14T10:05:11Z,,",
    "T8,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,,,,,O\\1,2025-03-14T10:05:11Z,,",
    "T9,BINANCE,,,SBER.MOEX,BUY,1,1,,,,,,2025-03-14T10:05:11Z,,",
    "TA,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,1,XYZ,,,,2025-03-14T10:05:11Z,,",
    f"TB,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,,,,{'V' * 64},{'O' * 40},2025-03-14T10:05:11Z,,",
    "TC,BINANCE,,RU-EQ,SBER.MOEX,BUY,1,1,,,NOBODY,,,2025-03-14T10:05:11Z,,",
)  # fmt: skip
MARKED = {"T2", "T4", "T6", "T8", "T9", "TA", "TC"}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    known = Catalogue()
    definitions = [*read_desk(packaged_desk(), known).definitions, *(Source(code=code) for code in ("MANUAL", "BINANCE"))]
    for definition in definitions:
        subject = subject_of(definition)
        if not known.id_of(subject, definition.code):
            known.apply(subject, known.next_id(subject), definition, 1)
    return known


def agree(path: Path, catalogue: Catalogue, options: Options | None = None) -> tuple[int, set[str]]:
    """Compare every row that goes the compiled way with the border's records; how many, and the trade ids of the others."""
    rows = [row for row in read_trades(path, "csv", options or Options()) if isinstance(row, TradeRow)]
    border, translator = Border(catalogue), Translator(catalogue)
    reader = open_columns(path, options, 5)
    assert reader is not None
    compared, marked = 0, set()
    with reader:
        for batch in reader:
            known = translator.tables(reader)
            batch.scale(known.price_scales, known.qty_scales)
            mark_rows(batch.arrays, known)
            for index in range(batch.count):
                row = rows[batch.first_row - 1 + index]
                if batch.slow[index]:
                    marked.add(row.trade_id)
                    continue
                room = new_room(1)
                room.words[:] = -1  # what was there before does not show through
                count = make_records(batch.arrays, batch.qty_raw, batch.price_raw, known, index, index + 1, room)
                assert room.events[:count].tobytes() == border.group_of(row).tobytes(), row
                compared += 1
            plain = np.flatnonzero(batch.slow == 0)
            if len(plain) == batch.count:  # several at once are each alone, one behind another
                room = new_room(batch.count)
                count = make_records(batch.arrays, batch.qty_raw, batch.price_raw, known, 0, batch.count, room)
                groups = [border.group_of(rows[batch.first_row - 1 + index]) for index in range(batch.count)]
                assert room.events[:count].tobytes() == np.concatenate(groups).tobytes()
                assert room.places.tolist() == np.cumsum([0, *(len(group) for group in groups[:-1])]).tolist()
    return compared, marked


def test_rows_of_fields(tmp_path: Path, catalogue: Catalogue) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "\n".join(LINES) + "\n")
    assert agree(path, catalogue) == (len(LINES) - len(MARKED), MARKED)


def test_the_packaged_desk(catalogue: Catalogue) -> None:
    compared, marked = agree(packaged_desk() / "trades.csv", catalogue)
    assert compared >= 15
    assert compared + len(marked) == 21


def test_prints_carry_venue_and_order(tmp_path: Path, catalogue: Catalogue) -> None:
    lines = [f"{1570752011620 + number // 3},{number},{'buy' if number % 2 else 'sell'},0.{number:04d},{number}" for number in range(1, 40)]
    path = tmp_path / "prints.csv"
    path.write_text("ts_ms,agg_trade_id,taker_side,price,qty\n" + "\n".join(lines) + "\n")
    options = Options(instrument="BTC.SPOT", quote_currency="USDT", books=("CR-SPOT", "CR-PERP"), account="")
    compared, marked = agree(path, catalogue, options)
    assert compared >= 30
    assert compared + len(marked) == len(lines)
