"""`pks book --dry-run`: the outcomes of booking, more rows than one draft holds, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.past.rehearsal import KeysAside
from pks.segments.journal_recovery import find_end
from pks.segments.journal_view import JournalView
from pks.workers.booking import DayFiles
from tests.unit.cli.conftest import Run
from tests.unit.past.test_answers import ROWS, a_row, digest

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes


def dry_run(pks_run: Run, data_dir: Path, file: Path) -> list[dict[str, Any]]:
    result = pks_run(data_dir, "book", str(file), "--dry-run", "--json")
    assert result.exit_code == 1, result.output
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")] or json.loads(result.stdout)


def test_the_outcomes_of_booking_and_nothing_written(desk_dir: Path, tmp_path: Path, pks_run: Run) -> None:
    file = tmp_path / "rows.ndjson"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    before = digest(desk_dir)
    outcomes = dry_run(pks_run, desk_dir, file)
    assert digest(desk_dir) == before
    codes = [outcome["code"] or outcome["status"] for outcome in outcomes]
    assert codes == [
        "ACCEPTED",
        "ACCEPTED",
        "DUPLICATE",
        "IDEMPOTENCY_CONFLICT",
        *4 * ["ACCEPTED"],
        "NOT_POSITIVE",
        "UNKNOWN_BOOK",
        "UNKNOWN_TRADE",
    ]


def test_more_rows_than_one_draft_holds(desk_dir: Path, tmp_path: Path, pks_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pks.past.rehearsal.ROOM", 7)
    file = tmp_path / "rows.ndjson"
    rows = [a_row(f"R{number}", note="a text that takes a record of its own") for number in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, a_row("R5", price="1"), {"kind": "CANCEL", "trade_id": "R0"}]))
    outcomes = dry_run(pks_run, desk_dir, file)
    assert [outcome["status"] for outcome in outcomes] == [*len(rows) * ["ACCEPTED"], "REFUSED", "ACCEPTED"]
    sequences = [outcome["sequence"] for outcome in outcomes if outcome["status"] == "ACCEPTED"]
    assert sequences == list(range(sequences[0], sequences[0] + 2 * len(rows) + 1, 2))


def test_a_draft_lies_behind_the_journal_and_in_no_file(desk_dir: Path) -> None:
    last = find_end(desk_dir / "journal", 0).last
    view, other = JournalView(desk_dir / "journal"), JournalView(desk_dir / "journal")
    kept = view.records[1 : last + 1].copy()
    first = view.draft(last + 1, 7)
    first["sequence"] = np.arange(last + 1, last + 8)
    second = view.draft(last + 8, 1000)
    assert not second["sequence"].any()
    second["sequence"] = np.arange(last + 8, last + 1008)
    assert view.records["sequence"][last + 1 : last + 1008].tolist() == list(range(last + 1, last + 1008))
    assert view.records[1 : last + 1].tobytes() == kept.tobytes()
    assert not other.records["sequence"][last + 1 : last + 20].any(), "only who drafts sees it"
    assert not view.records.flags.writeable


def test_keys_that_memory_forgets_stay_beside_their_files(tmp_path: Path) -> None:
    def rows(*sequences: int) -> Any:
        return np.array([[sequence, sequence, sequence, 0] for sequence in sequences], np.int64)

    files = DayFiles(tmp_path / "keys")
    files.add(20_000, rows(1, 2))
    before = digest(tmp_path)
    aside = KeysAside(tmp_path / "keys")
    aside.add(20_000, rows(2, 3))
    aside.add(20_001, rows(4))
    assert aside.dates() == [20_000, 20_001]
    assert [len(aside.rows(date)) for date in (20_000, 20_001, 20_002)] == [3, 1, 0]
    assert digest(tmp_path) == before
    assert KeysAside(tmp_path / "none").dates() == []
