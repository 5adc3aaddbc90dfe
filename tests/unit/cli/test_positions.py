"""`pks positions` and `pks lots`: the desk's day to the digits printed, from the journal, from checkpoints and from live slots."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import click
import pyarrow as pa
import pytest

from pks.cli.parameters import complete_accounts, complete_books, complete_instruments
from pks.edges.files.desk import packaged_desk
from pks.segments.journal_view import JournalView
from pks.workers.booking import Booking, DayFiles
from pks.workers.checkpoint import capture_arrays, positions_arrays, write_checkpoint
from pks.workers.positions import Positions
from tests.unit.cli.conftest import Run, json_of, running_here
from tests.unit.client.small_host import SmallHost

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

FIELDS = ["book", "instrument", "quantity", "average_price", "cost", "realised_gross", "realised_net", "fees", "open_lots", "currency"]
FIELDS += ["last_trade_time", "last_sequence"]


def expected() -> dict[tuple[str, str], dict[str, str]]:
    with (packaged_desk() / "expected_eod_positions.csv").open() as file:
        return {(row["book_id"], row["instrument_id"]): row for row in csv.DictReader(file)}


def make_checkpoint(data_dir: Path, sequence: int) -> None:
    """A checkpoint of the journal's first `sequence` events."""
    records = JournalView(data_dir / "journal").records
    positions = Positions(records)
    positions.apply(records, -1, 1, sequence)
    booking = Booking(lambda n: records[n], DayFiles(data_dir / "keys"))
    booking.learn(records, -1, 1, sequence)
    facts, arrays = capture_arrays(booking)
    (data_dir / "checkpoints").mkdir(exist_ok=True)
    write_checkpoint(data_dir / "checkpoints", sequence, facts, arrays | positions_arrays(positions))


# From the journal.


def test_desk_day_as_expected(pks_run: Run, desk_day_dir: Path) -> None:
    rows = json_of(pks_run(desk_day_dir, "positions", "--json", "--all"))
    assert all(list(row) == FIELDS for row in rows)
    found = {(row["book"], row["instrument"]): row for row in rows}
    wanted = expected()
    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        shown = found[key]
        assert Decimal(shown["quantity"]) == Decimal(row["qty"]), key
        assert shown["open_lots"] == int(row["open_lots"]), key
        assert shown["currency"] == row["pnl_ccy"], key
        for name, text in (("average_price", row["avg_open_price"]), ("realised_gross", row["realised_gross_day"])):
            assert Decimal(shown[name]).quantize(Decimal(text)) == Decimal(text), (key, name)


def test_open_positions_are_the_default(pks_run: Run, desk_dir: Path) -> None:
    everything = json_of(pks_run(desk_dir, "positions", "--json", "--all"))
    shown = json_of(pks_run(desk_dir, "positions", "--json"))
    assert shown == [row for row in everything if row["quantity"] != "0"]
    assert shown == sorted(shown, key=lambda row: (row["book"], row["instrument"]))


def test_filters(pks_run: Run, desk_day_dir: Path) -> None:
    def keys(*arguments: str) -> set[tuple[str, str]]:
        return {(row["book"], row["instrument"]) for row in json_of(pks_run(desk_day_dir, "positions", "--json", "--all", *arguments))}

    everything = keys()
    assert keys("--book", "RU-EQ") == {key for key in everything if key[0] == "RU-EQ"}
    assert keys("--book", "RU-EQ", "--book", "US-EQ") == {key for key in everything if key[0] in ("RU-EQ", "US-EQ")}
    assert keys("--instrument", "SBER") == {("RU-EQ", "SBER.MOEX")}
    assert keys("--instrument", "RU0009029540") == {("RU-EQ", "SBER.MOEX")}, "by its ISIN"
    assert keys("--entity", "AUR-RU") == {key for key in everything if key[0].startswith("RU-")}
    assert keys("--entity", "AUR-RU", "--book", "US-EQ") == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--book", "RU-EK"), "no book 'RU-EK'; is it RU-EQ"),
        (("--instrument", "NOPE"), "no instrument 'NOPE'"),
        (("--entity", "AUR-XX"), "no entity 'AUR-XX'"),
        (("--known-at", "100000"), "event 100000 is not in the journal"),
    ],
)
def test_unknown_names_are_one_line(pks_run: Run, desk_day_dir: Path, arguments: tuple[str, ...], said: str) -> None:
    result = pks_run(desk_day_dir, "positions", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"pks: {said}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--json", "--csv"), ("--account", "NSD-RU-01"), ("--as-of", "yesterday"), ("--by", "colour")])
def test_wrong_use_is_exit_2(pks_run: Run, desk_day_dir: Path, arguments: tuple[str, ...]) -> None:
    assert pks_run(desk_day_dir, "positions", *arguments).exit_code == 2


def test_no_journal_is_one_line(pks_run: Run, tmp_path: Path) -> None:
    for command in (("positions",), ("lots", "A", "B"), ("trades",), ("journal", "stats"), ("journal", "dump"), ("journal", "verify")):
        result = pks_run(tmp_path, *command)
        assert (result.exit_code, result.stdout) == (1, ""), command
        assert result.stderr.startswith(f"pks: there is no journal in the data directory {tmp_path}"), command


def test_csv_has_what_json_has(pks_run: Run, desk_day_dir: Path) -> None:
    as_json = json_of(pks_run(desk_day_dir, "positions", "--json"))
    result = pks_run(desk_day_dir, "positions", "--csv")
    as_csv = list(csv.DictReader(io.StringIO(result.stdout)))
    assert list(as_csv[0]) == FIELDS
    assert [row["cost"] for row in as_csv] == [row["cost"] for row in as_json]
    assert [row["fees"] for row in as_csv] == ["; ".join(f"{name} {fee}" for name, fee in row["fees"].items()) for row in as_json]


def test_arrow_file_has_what_json_has(pks_run: Run, desk_day_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "positions.arrow"
    assert pks_run(desk_day_dir, "positions", "--arrow", str(path)).exit_code == 0
    rows = json_of(pks_run(desk_day_dir, "positions", "--json"))
    table = pa.ipc.open_file(path).read_all()
    assert table.column_names == FIELDS
    assert [Decimal(value) for value in table["cost"].to_pylist()] == [Decimal(row["cost"]) for row in rows]
    stream = pks_run(desk_day_dir, "positions", "--arrow", "--book", rows[0]["book"]).stdout_bytes
    assert set(pa.ipc.open_stream(stream).read_all()["book"].to_pylist()) == {rows[0]["book"]}


def test_table_has_totals_by_currency(pks_run: Run, desk_day_dir: Path) -> None:
    result = pks_run(desk_day_dir, "positions", "--entity", "AUR-RU")
    rows = json_of(pks_run(desk_day_dir, "positions", "--json", "--all", "--entity", "AUR-RU"))
    rouble = sum(Decimal(row["realised_gross"]) for row in rows if row["currency"] == "RUB")
    assert f"realised gross {rouble.normalize():f}" in next(line for line in result.stdout.splitlines() if line.startswith("total RUB"))


def test_sums_by_book_and_entity(pks_run: Run, desk_day_dir: Path) -> None:
    rows = json_of(pks_run(desk_day_dir, "positions", "--json", "--all"))
    for by, group in (("book", lambda book: book), ("entity", lambda book: "AUR-RU" if book.startswith("RU-") else "other")):
        found: dict[tuple[str, str], Decimal] = {}
        for row in json_of(pks_run(desk_day_dir, "positions", "--json", "--by", by)):
            name = row[by] if by == "book" or row[by] == "AUR-RU" else "other"
            if row["positions"] or any(row[figure] != "0" for figure in ("cost", "realised_gross", "realised_net")):
                found[name, row["currency"]] = found.get((name, row["currency"]), Decimal(0)) + Decimal(row["realised_net"])
        wanted: dict[tuple[str, str], Decimal] = {}
        for row in rows:
            key = (group(row["book"]), row["currency"])
            wanted[key] = wanted.get(key, Decimal(0)) + Decimal(row["realised_net"])
        assert found == wanted, by


def test_accounts_add_up(pks_run: Run, desk_day_dir: Path) -> None:
    result = pks_run(desk_day_dir, "positions", "--by", "account")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("accounts and books add up in ")
    rows = json_of(pks_run(desk_day_dir, "positions", "--by", "account", "--json"))
    positions = json_of(pks_run(desk_day_dir, "positions", "--json"))
    for instrument in {row["instrument"] for row in positions}:
        held = sum(Decimal(row["quantity"]) for row in rows if row["instrument"] == instrument)
        assert held == sum(Decimal(row["quantity"]) for row in positions if row["instrument"] == instrument)
    one = json_of(pks_run(desk_day_dir, "positions", "--by", "account", "--json", "--account", "NSD-RU-01"))
    assert one == [row for row in rows if row["account"] == "NSD-RU-01"] != []


def test_known_at_the_opening(pks_run: Run, desk_day_dir: Path) -> None:
    trades = json_of(pks_run(desk_day_dir, "trades", "--json"))
    first_trade = next(trade["sequence"] for trade in trades if trade["kind"] != "OPENING")
    rows = json_of(pks_run(desk_day_dir, "positions", "--json", "--known-at", str(first_trade - 1)))
    assert all(row["realised_gross"] == "0" for row in rows)
    assert {(row["book"], row["instrument"]) for row in rows} == {
        (trade["book"], trade["instrument"]) for trade in trades if trade["kind"] == "OPENING"
    }
    assert json_of(pks_run(desk_day_dir, "positions", "--json", "--known-at", "0")) == []


def test_as_of_is_known_at_where_events_came_in_the_order_of_time(pks_run: Run, desk_day_dir: Path) -> None:
    opening_end = "2025-03-14T00:00:00Z"
    trades = json_of(pks_run(desk_day_dir, "trades", "--json"))
    first_trade = next(trade["sequence"] for trade in trades if trade["kind"] != "OPENING")
    before = json_of(pks_run(desk_day_dir, "positions", "--json", "--known-at", str(first_trade - 1)))
    assert json_of(pks_run(desk_day_dir, "positions", "--json", "--as-of", opening_end)) == before
    assert json_of(pks_run(desk_day_dir, "positions", "--json", "--as-of", "2025-03-13")) == before
    now = json_of(pks_run(desk_day_dir, "positions", "--json"))
    assert json_of(pks_run(desk_day_dir, "positions", "--json", "--as-of", "2025-03-15")) == now
    both = json_of(pks_run(desk_day_dir, "positions", "--json", "--as-of", "2025-03-14T10:10:00Z", "--known-at", str(first_trade)))
    assert {row["last_sequence"] for row in both if row["realised_gross"] != "0"} <= {first_trade}


@pytest.mark.parametrize("at", ["middle", "end"])
def test_checkpoint_gives_the_same(pks_run: Run, desk_day_dir: Path, desk_dir: Path, at: str) -> None:
    last = json_of(pks_run(desk_dir, "journal", "stats", "--json"))["records"]
    make_checkpoint(desk_dir, last if at == "end" else last - 10)
    for command in (
        ("positions", "--all"),
        ("positions", "--by", "account"),
        ("positions", "--known-at", str(last - 20)),
        ("lots", "RU-EQ", "SBER"),
        ("trades",),
        ("trades", "--matches"),
    ):
        assert json_of(pks_run(desk_dir, *command, "--json")) == json_of(pks_run(desk_day_dir, *command, "--json")), command


# Lots.


def test_lots_of_the_desk(pks_run: Run, desk_day_dir: Path) -> None:
    positions = json_of(pks_run(desk_day_dir, "positions", "--json"))
    for row in positions:
        lots = json_of(pks_run(desk_day_dir, "lots", row["book"], row["instrument"], "--json"))
        assert all(list(lot) == ["lot_id", "date", "quantity", "price", "cost"] for lot in lots)
        assert len(lots) == row["open_lots"]
        assert sum(Decimal(lot["quantity"]) for lot in lots) == Decimal(row["quantity"])
        assert sum(Decimal(lot["cost"]) for lot in lots) == Decimal(row["cost"])


def test_lots_for_people_and_csv(pks_run: Run, desk_day_dir: Path) -> None:
    assert pks_run(desk_day_dir, "lots", "RU-EQ", "SBER").stdout.splitlines() == [
        "lot   date        quantity  price    cost",
        "L002  2025-02-18      3000  309.9  929700",
        "",
        "1 lot: quantity 3000, cost 929700 RUB",
    ]
    assert pks_run(desk_day_dir, "lots", "RU-EQ", "SBER", "--csv").stdout == (
        "lot_id,date,quantity,price,cost\nL002,2025-02-18,3000,309.9,929700\n"
    )


def test_lots_at_another_time(pks_run: Run, desk_day_dir: Path) -> None:
    lots = json_of(pks_run(desk_day_dir, "lots", "RU-EQ", "SBER", "--json", "--as-of", "2025-03-13"))
    assert [lot["lot_id"] for lot in lots] == ["L001", "L002"]
    assert json_of(pks_run(desk_day_dir, "lots", "RU-EQ", "SBER", "--json", "--known-at", "239")) == lots


def test_no_lots(pks_run: Run, desk_day_dir: Path) -> None:
    assert pks_run(desk_day_dir, "lots", "US-EQ", "SBER").stdout == "no open lots\n"
    assert json_of(pks_run(desk_day_dir, "lots", "US-EQ", "SBER", "--json")) == []
    result = pks_run(desk_day_dir, "lots", "US-EQ", "SBERR")
    assert (result.exit_code, result.stderr.startswith("pks: no instrument 'SBERR'")) == (1, True)


# From live slots.


@pytest.fixture
def live(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path, f"testcli{os.getpid()}")
    try:
        with running_here(tmp_path, small.instance, small.shards):
            yield small
    finally:
        small.close()


def test_live_positions(pks_run: Run, live: SmallHost, tmp_path: Path) -> None:
    live.put("ALPHA", "SBER.MOEX", 10, price=12_345)
    live.put("BETA", "GAZP.MOEX", 0)
    live.put("BETA", "OFZ26238", -3)
    rows = json_of(pks_run(tmp_path, "positions", "--json"))
    assert [(row["book"], row["instrument"], row["quantity"], row["cost"]) for row in rows] == [
        ("ALPHA", "SBER.MOEX", "10", "1234.5"),
        ("BETA", "OFZ26238", "-3", "-0.03"),
    ]
    assert len(json_of(pks_run(tmp_path, "positions", "--json", "--all"))) == 3
    assert [row["book"] for row in json_of(pks_run(tmp_path, "positions", "--json", "--book", "ALPHA"))] == ["ALPHA"]
    assert "totals include 1 flat position" in pks_run(tmp_path, "positions").stdout


def test_live_accounts_that_do_not_add_up(pks_run: Run, live: SmallHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pks.cli.positions.LIVE_NAP_SECONDS", 0.0)
    live.put("ALPHA", "SBER.MOEX", 10)
    live.put("BETA", "SBER.MOEX", 5)
    live.put_account("NSD-RU-01", "ALPHA", "SBER.MOEX", 10)
    live.put_account("NSD-RU-01", "BETA", "SBER.MOEX", 2)
    live.put_account("NSD-RU-02", "BETA", "SBER.MOEX", 3)
    rows = json_of(pks_run(tmp_path, "positions", "--by", "account", "--json"))
    assert [(row["account"], row["quantity"], row["books"]) for row in rows] == [
        ("NSD-RU-01", "12", {"ALPHA": "10", "BETA": "2"}),
        ("NSD-RU-02", "3", {"BETA": "3"}),
    ]
    live.put_account("NSD-RU-02", "BETA", "SBER.MOEX", 4)
    result = pks_run(tmp_path, "positions", "--by", "account", "--json")
    assert result.exit_code == 1
    assert result.stderr == "pks: does not add up: BETA SBER.MOEX: accounts hold 6, the position is 5\n"
    assert len(json.loads(result.stdout)) == 2, "what is there is shown all the same"
    assert "add up in" not in pks_run(tmp_path, "positions", "--by", "account").stdout


def test_system_that_is_not_ready_is_read_from_the_journal(pks_run: Run, desk_dir: Path) -> None:
    with running_here(desk_dir, f"testgone{os.getpid()}", 1):
        result = pks_run(desk_dir, "positions", "--json", "--book", "RU-EQ")
    assert result.stderr.startswith("pks: read from the journal, since the system is not ready")
    assert len(json_of(result)) == 5


def test_help_has_examples(pks_run: Run) -> None:
    for command in (("positions",), ("lots",), ("trades",), ("calc", "lots"), ("journal", "verify"), ("journal", "dump"), ("top",)):
        result = pks_run(None, *command, "--help")
        assert result.exit_code == 0
        assert f"\n  pks {' '.join(command)}" in result.stdout, command


def test_names_are_completed_from_the_running_system(live: SmallHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKS_DATA_DIR", str(tmp_path))
    context, parameter = click.Context(click.Command("lots")), click.Argument(["book"])
    assert complete_books(context, parameter, "") == ["ALPHA", "BETA"]
    assert complete_instruments(context, parameter, "SB") == ["SBER.MOEX", "SBERP.MOEX"]
    assert complete_accounts(context, parameter, "X") == []
    monkeypatch.setenv("PKS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert complete_books(context, parameter, "") == [], "no system, no names, no error"
