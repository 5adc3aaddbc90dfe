"""Output forms: aligned for people, exact for programs, safe for any terminal and any reader who goes away."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.cli.tables import CannotWrite, Column, Output, pad, rounded, width_of, write_arrow

COLUMNS = (
    Column("name"),
    Column("amount", "decimal"),
    Column("fees", "map"),
    Column("at", "time"),
    Column("day", "date"),
    Column("n", "int"),
)
FEES = {"USD": "1.2", "BTC": "0.1"}
ROWS = [
    {"name": 'Ää, "x"\n', "amount": "-1.50", "fees": FEES, "at": "2025-03-14T10:00:00.000000001Z", "day": "2025-03-14", "n": 1},
    {"name": "日本", "amount": None, "fees": {}, "at": None, "day": None, "n": None},
]


def test_table_aligns_by_the_terminals_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Output().write(COLUMNS, ROWS, lambda: ["the end"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "amount", "fees", "at", "day", "n"]
    assert lines[1] == 'Ää, "x"    -1.50  USD 1.2; BTC 0.1  2025-03-14T10:00:00.000000001Z  2025-03-14  1', "a line end is a blank"
    assert lines[2] == "日本"
    assert lines[3:] == ["the end"]


def test_table_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Output().write(COLUMNS, [], empty="nothing there")
    assert capsys.readouterr().out == "nothing there\n"


def test_table_goes_on_behind_its_first_page(capsys: pytest.CaptureFixture[str]) -> None:
    Output().write((Column("n", "int"),), ({"n": n} for n in range(5003)))
    assert [int(line) for line in capsys.readouterr().out.splitlines()[1:]] == list(range(5003))


def test_json_and_csv_are_utf8_and_exact(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    Output(as_json=True).write(COLUMNS, iter(ROWS))
    assert json.loads(capfdbinary.readouterr().out.decode()) == ROWS
    Output(as_json=True).write(COLUMNS, [])
    assert json.loads(capfdbinary.readouterr().out) == []
    Output(as_csv=True).write(COLUMNS, iter(ROWS))
    assert capfdbinary.readouterr().out.decode() == (
        'name,amount,fees,at,day,n\n"Ää, ""x""\n",-1.50,USD 1.2; BTC 0.1,2025-03-14T10:00:00.000000001Z,2025-03-14,1\n日本,,,,,\n'
    )


def test_arrow_file_holds_types(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    write_arrow(COLUMNS, ROWS, str(path))
    table = pa.ipc.open_file(path).read_all()
    assert table["at"].cast(pa.int64()).to_pylist() == [1_741_946_400_000_000_001, None]
    first, second = table.drop_columns("at").to_pylist()
    assert first["amount"] == Decimal("-1.5")
    assert first["fees"] == [("USD", "1.2"), ("BTC", "0.1")]
    assert str(first["day"]) == "2025-03-14"
    assert second == {"name": "日本", "amount": None, "fees": [], "day": None, "n": None}
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.arrow"]


def test_arrow_stream_on_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_arrow(COLUMNS, ROWS, "-")
    assert pa.ipc.open_stream(io.BytesIO(capfdbinary.readouterr().out)).read_all().num_rows == 2


def test_arrow_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="No such file"):
        write_arrow(COLUMNS, ROWS, str(tmp_path / "missing" / "rows.arrow"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1.23456789012", "1.23456789"),
        ("-0.000000001", "0"),
        ("0.000000005", "0"),
        ("0.000000015", "0.00000002"),
        ("12", "12"),
        ("9.999999999", "10"),
    ],
)
def test_rounding_for_people(text: str, shown: str) -> None:
    assert rounded(text, 8) == shown


@given(st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**30), max_value=10**30))
def test_rounding_is_within_half_a_unit(value: Decimal) -> None:
    shown = Decimal(rounded(format(value, "f"), 8))
    assert abs(shown - value) <= Decimal("5e-9")


@given(st.text(max_size=20), st.integers(0, 40), st.booleans())
def test_padding_has_the_width(text: str, width: int, right: bool) -> None:
    assert width_of(pad(text, width, right)) == max(width, width_of(text))


PRINTER = """
import sys
from pks.cli.tables import Column, Output
Output(as_json=sys.argv[1] == "json", as_csv=sys.argv[1] == "csv").write((Column("n"),), ({"n": "x" * 100} for _ in range(10**6)))
"""


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_reader_who_goes_away_ends_it(form: str) -> None:
    program = f"import click\n@click.command()\ndef main():\n    exec({PRINTER!r})\nmain([])"
    with subprocess.Popen([sys.executable, "-c", program, form], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_terminal_without_the_characters() -> None:
    program = "from pks.cli.tables import say; say('Ä日\\n')"
    found = subprocess.run([sys.executable, "-c", program], env={"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert found.stdout == b"\\xc4\\u65e5\n"
