"""`pks trades`: the latest version and the state of every trade, after every kind of correction."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pks.base.errors import Code
from pks.edges.files.desk import packaged_desk
from pks.edges.files.trades import read_trades
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.past.trades import History
from tests.unit.cli.conftest import Run, json_of
from tests.unit.cli.journals import Booked, desk_core, desk_day

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

LONG_ID = "a trade id of a venue that has much to say about it: ä 0123456789"


def trade(trade_id: str, side: str, quantity: str, price: str, **more: str) -> dict[str, str]:
    fields = {"book": "RU-EQ", "instrument": "SBER.MOEX", "account": "NSD-RU-01", "trade_time": "2025-03-14T11:00:00Z"}
    return fields | {"trade_id": trade_id, "side": side, "quantity": quantity, "price": price} | more


def corrected(folder: Path) -> Booked:
    """A journal with a trade for each thing that can become of one."""
    booked = desk_core(folder)
    codes = [
        booked.row(**trade("PLAIN", "BUY", "10", "300", fee="1", fee_currency="RUB", venue="MOEX", order_id="o-1", note="ein\tWort")),
        booked.row(**trade("AMENDED", "BUY", "10", "300", fee="1", fee_currency="RUB")),
        booked.row(kind="AMEND", trade_id="AMENDED", price="301"),
        booked.row(kind="AMEND", trade_id="AMENDED", quantity="12", trade_time="2025-03-14T12:00:00Z"),
        booked.row(**trade("GONE", "BUY", "10", "300")),
        booked.row(kind="CANCEL", trade_id="GONE"),
        booked.row(**trade("MOVED", "BUY", "10", "300")),
        booked.row(kind="AMEND", trade_id="MOVED", book="RU-ARB"),
        booked.row(**trade("LATE-FEE", "BUY", "10", "300")),
        booked.row(kind="FEE", trade_id="LATE-FEE", fee="0.5", fee_currency="RUB"),
        booked.row(kind="FEE", trade_id="LATE-FEE", fee="0.25", fee_currency="USD"),
        booked.row(**trade(LONG_ID, "SELL", "1", "300")),
        booked.row(**trade("SWAP", "SELL", "10", "300", kind="TRANSFER", to_book="RU-ARB") | {"side": ""}),
        booked.row(**trade("TOO-MUCH", "SELL", "100000000", "300", kind="TRANSFER", to_book="RU-ARB") | {"side": ""}),
    ]
    assert [code for _, code, _ in codes[:-1]] == ["ACCEPTED"] * (len(codes) - 1), codes
    assert codes[-1][1] == "INSUFFICIENT_POSITION"
    for row in read_trades(packaged_desk() / "trades.csv"):
        if row.source == "BLOCK":
            booked.book([row])
    return booked


@pytest.fixture(scope="module")
def corrected_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrected")
    corrected(folder / "keys").write(folder)
    return folder


@pytest.fixture
def shown(pks_run: Run, corrected_dir: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json_of(pks_run(corrected_dir, "trades", "--json")):
        found.setdefault(row["trade_id"], []).append(row)
    return found


def states(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["status"], row["version"]) for row in rows]


def test_plain_trade_has_all_its_fields(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["PLAIN"]
    assert row | {"sequence": 0, "recorded_time": "", "last_sequence": 0} == {
        "sequence": 0, "trade_id": "PLAIN", "leg": 0, "source": "MANUAL", "kind": "TRADE", "status": "BOOKED", "state": "BOOKED",
        "version": 1, "code": None, "book": "RU-EQ", "to_book": None, "instrument": "SBER.MOEX", "side": "BUY", "quantity": "10",
        "price": "300", "fees": {"RUB": "1"}, "account": "NSD-RU-01", "to_account": None, "trade_time": "2025-03-14T11:00:00Z",
        "business_date": "2025-03-14", "settle_date": None, "open_date": None, "lot_id": None, "venue": "MOEX", "order_id": "o-1",
        "counterparty": None, "note": "ein\tWort", "parent": None, "replaced_by": None, "recorded_time": "", "last_sequence": 0,
    }  # fmt: skip
    assert row["last_sequence"] == row["sequence"]


def test_amended_trade_is_its_latest_version(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["AMENDED"]
    assert states([row]) == [("AMENDED v3", 3)]
    assert (row["quantity"], row["price"], row["trade_time"], row["fees"]) == ("12", "301", "2025-03-14T12:00:00Z", {"RUB": "1"})
    assert row["last_sequence"] == row["sequence"] + 2


def test_cancelled_trade(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["GONE"]
    assert states([row]) == [("CANCELLED", 1)]
    assert row["fees"] is None, "unknown is not zero"
    assert row["last_sequence"] == row["sequence"] + 1


def test_moved_trade_leaves_a_cancelled_one(shown: dict[str, list[dict[str, Any]]]) -> None:
    old, new = shown["MOVED"]
    assert states([old, new]) == [("CANCELLED", 1), ("AMENDED v2", 2)]
    assert (old["book"], new["book"]) == ("RU-EQ", "RU-ARB")
    assert (old["replaced_by"], new["parent"]) == (new["sequence"], old["sequence"])


def test_later_fees_are_added(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["LATE-FEE"]
    assert (row["status"], row["fees"]) == ("BOOKED", {"RUB": "0.5", "USD": "0.25"})


def test_refused_trade_has_its_code(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["TOO-MUCH"]
    assert (row["status"], row["state"], row["code"]) == ("REFUSED INSUFFICIENT_POSITION", "REFUSED", "INSUFFICIENT_POSITION")
    (row,) = shown["SWAP"]
    assert (row["status"], row["book"], row["to_book"], row["side"], row["quantity"]) == ("BOOKED", "RU-EQ", "RU-ARB", None, "10")


def test_long_id_is_whole(shown: dict[str, list[dict[str, Any]]], pks_run: Run, corrected_dir: Path) -> None:
    assert [row["side"] for row in shown[LONG_ID]] == ["SELL"]
    assert [row["trade_id"] for row in json_of(pks_run(corrected_dir, "trades", "--json", "--trade-id", LONG_ID))] == [LONG_ID]


def test_opening_lots_are_trades(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["L001"]
    assert (row["kind"], row["status"], row["price"], row["open_date"]) == ("OPENING", "BOOKED", "281.4", "2025-01-20")


def test_a_block_is_allocated_even_where_a_position_refused_its_parts() -> None:
    part = np.zeros(1, EVENT)[0]
    part["sequence"], part["kind"], part["original"] = 7, Kind.ALLOCATION, 3
    history = History({7: int(Code.INSUFFICIENT_POSITION)})
    history.learn(part)
    assert history.allocated == {3: 7}


def test_unallocated_blocks(pks_run: Run, corrected_dir: Path, tmp_path: Path) -> None:
    rows = json_of(pks_run(corrected_dir, "trades", "--json", "--unallocated"))
    assert [(row["trade_id"], row["status"], row["book"]) for row in rows] == [("T0004", "UNALLOCATED", None)]
    booked = desk_day(tmp_path / "keys")
    booked.write(tmp_path)
    assert json_of(pks_run(tmp_path, "trades", "--json", "--unallocated")) == []
    (block,) = json_of(pks_run(tmp_path, "trades", "--json", "--trade-id", "T0004"))
    parts = json_of(pks_run(tmp_path, "trades", "--json", "--kind", "allocation"))
    assert block["status"] == "ALLOCATED"
    assert {part["parent"] for part in parts} == {block["sequence"]}
    assert sum(Decimal(part["quantity"]) for part in parts) == Decimal(block["quantity"])


def test_filters(pks_run: Run, corrected_dir: Path) -> None:
    def ids(*arguments: str) -> list[str]:
        command = ("trades", "--json", "--kind", "trade", "--kind", "transfer", *arguments)
        return [row["trade_id"] for row in json_of(pks_run(corrected_dir, *command))]

    everything = ids()
    assert everything == ["PLAIN", "AMENDED", "GONE", "MOVED", "MOVED", "LATE-FEE", LONG_ID, "SWAP", "TOO-MUCH", "T0004"]
    assert ids("--book", "RU-ARB") == ["MOVED", "SWAP", "TOO-MUCH"]
    assert ids("--instrument", "SBER") == everything[:-1]
    assert ids("--account", "NSD-RU-01") == everything
    assert ids("--source", "BLOCK") == ["T0004"]
    assert ids("--from", "2025-03-14T11:30:00Z") == ["AMENDED"], "chosen by what it is now"
    assert ids("--from", "2025-03-14T11:00:00Z", "--to", "2025-03-14T11:00:00Z") == [one for one in everything[:-1] if one != "AMENDED"]
    assert ids("--from", "2025-03-14", "--to", "2025-03-14") == everything
    assert ids("--to", "2025-03-13") == []
    assert ids("--last", "3") == everything[-3:]
    assert ids("--last", "1000") == everything
    assert ids("--trade-id", "GONE", "--trade-id", "PLAIN") == ["PLAIN", "GONE"]


def test_as_they_were_known(shown: dict[str, list[dict[str, Any]]], pks_run: Run, corrected_dir: Path) -> None:
    def known(sequence: int, *arguments: str) -> dict[str, dict[str, Any]]:
        rows = json_of(pks_run(corrected_dir, "trades", "--json", "--known-at", str(sequence), *arguments))
        return {row["trade_id"]: row for row in rows}

    (amended,) = shown["AMENDED"]
    then = known(amended["sequence"])
    assert "GONE" not in then
    assert (then["AMENDED"]["status"], then["AMENDED"]["version"]) == ("BOOKED", 1)
    assert known(amended["last_sequence"])["AMENDED"]["status"] == "AMENDED v3"
    (gone,) = shown["GONE"]
    assert known(gone["sequence"])["GONE"]["status"] == "BOOKED"
    assert known(gone["last_sequence"])["GONE"]["status"] == "CANCELLED"
    as_of = known(gone["last_sequence"], "--as-of", "2025-03-14T11:00:00Z")
    assert "AMENDED" not in as_of, "its trade time is 12:00 now"
    assert "GONE" in as_of
    done = pks_run(corrected_dir, "trades", "--known-at", "999999")
    assert done.exit_code == 1
    assert "event 999999 is not in the journal" in done.stderr
    assert pks_run(corrected_dir, "trades", "--matches", "--as-of", "2025-03-14").exit_code == 2


def test_matches_of_trades(pks_run: Run, corrected_dir: Path) -> None:
    chosen = [part for trade_id in (LONG_ID, "SWAP", "PLAIN") for part in ("--trade-id", trade_id)]
    rows = json_of(pks_run(corrected_dir, "trades", "--json", "--matches", *chosen))
    assert [(row["trade_id"], row["kind"], row["open_trade_id"], row["quantity"], row["realised_gross"]) for row in rows] == [
        (LONG_ID, "MATCH", "L001", "1", "18.6"),
        ("SWAP", "MOVED", "L001", "10", "0"),
    ]
    assert rows[0]["cost"] == "281.4"
    assert pks_run(corrected_dir, "trades", "--matches", "--trade-id", "PLAIN").stdout == "no matches\n"


def test_matches_add_up_to_the_positions(pks_run: Run, desk_day_dir: Path) -> None:
    gross: dict[tuple[str, str], Decimal] = {}
    for row in json_of(pks_run(desk_day_dir, "trades", "--json", "--matches")):
        key = (row["book"], row["instrument"])
        gross[key] = gross.get(key, Decimal(0)) + Decimal(row["realised_gross"])
    for row in json_of(pks_run(desk_day_dir, "positions", "--json", "--all")):
        assert gross.get((row["book"], row["instrument"]), Decimal(0)) == Decimal(row["realised_gross"]), row


def test_csv_and_arrow(pks_run: Run, corrected_dir: Path, tmp_path: Path) -> None:
    as_json = json_of(pks_run(corrected_dir, "trades", "--json"))
    as_csv = list(csv.DictReader(io.StringIO(pks_run(corrected_dir, "trades", "--csv").stdout, newline="")))
    assert [row["trade_id"] for row in as_csv] == [row["trade_id"] for row in as_json]
    assert as_csv[-1]["book"] == ""
    path = tmp_path / "trades.arrow"
    assert pks_run(corrected_dir, "trades", "--arrow", str(path)).exit_code == 0
    table = pa.ipc.open_file(path).read_all()
    assert table["trade_id"].to_pylist() == [row["trade_id"] for row in as_json]
    assert table["quantity"].to_pylist() == [Decimal(row["quantity"]) for row in as_json]


def test_table_for_people(pks_run: Run, corrected_dir: Path) -> None:
    lines = pks_run(corrected_dir, "trades", "--kind", "TRADE", "--book", "RU-EQ").stdout.splitlines()
    assert lines[0].split()[:4] == ["event", "trade", "kind", "state"]
    assert "AMENDED v3" in next(line for line in lines if "AMENDED " in line)
    assert pks_run(corrected_dir, "trades", "--to", "2001-01-01").stdout == "no trades\n"
