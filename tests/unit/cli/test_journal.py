"""`pks journal`: damage is found and named, the dump is the journal, files are counted and packed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks import topology
from pks.base.config import Config
from pks.cli.journal import state_digest, text_row
from pks.engine.lots.state import KEYS_COUNT
from pks.layouts.codes import Kind
from pks.layouts.slots import POSITION_SLOT
from pks.segments.journal_view import JournalView
from pks.segments.ring import ring_gate
from pks.workers.checkpoint import latest_checkpoint, positions_arrays
from pks.workers.positions import Positions
from tests.unit.cli.conftest import Run, json_of, running_here
from tests.unit.cli.journals import desk_core, desk_day, write_journal
from tests.unit.cli.test_positions import make_checkpoint
from tests.unit.client.small_host import HOUR_NS, SIZES

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

RECORD_BYTES, HEADER_BYTES = 256, 4096


def flip(data_dir: Path, sequence: int, byte: int = 100) -> None:
    """Damage one bit of a record of the first file."""
    path = data_dir / "journal" / f"{0:020d}.events"
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + sequence * RECORD_BYTES + byte] ^= 1
    path.write_bytes(raw)


# verify


def test_sound_journal(pks_run: Run, desk_day_dir: Path) -> None:
    verdict = json_of(pks_run(desk_day_dir, "journal", "verify", "--json"))
    assert (verdict["sound"], verdict["problems"], verdict["compared"]) == (True, [], None)
    assert verdict["replayed"] == verdict["records"] == 286
    said = pks_run(desk_day_dir, "journal", "verify").stdout
    assert "records: 286 sound" in said
    assert f"state hash {verdict['state_hash']}" in said
    assert "live slots: none, the system is not running" in said
    assert json_of(pks_run(desk_day_dir, "journal", "verify", "--json", "--no-replay"))["replayed"] is None


@pytest.mark.parametrize("sequence", [1, 150, 285])
def test_damaged_record_is_named(pks_run: Run, desk_day_dir: Path, tmp_path: Path, sequence: int) -> None:
    events = np.array(JournalView(desk_day_dir / "journal").records[1:288])
    events[286] = events[285]
    events[286]["sequence"], events[286]["group_index"], events[286]["group_count"] = 287, 0, 1
    write_journal(tmp_path / "journal", events, 512, splits=(287,))
    flip(tmp_path, sequence)
    result = pks_run(tmp_path, "journal", "verify", "--json")
    assert result.exit_code == 1
    verdict = json.loads(result.stdout)
    assert not verdict["sound"]
    assert [problem["sequence"] for problem in verdict["problems"]] == [sequence]
    said = pks_run(tmp_path, "journal", "verify")
    assert f"record {sequence}: its checksum does not fit its bytes" in said.stdout
    assert "DAMAGED: 1 record(s)" in said.stdout


def test_last_batch_that_was_never_acknowledged_is_no_damage(pks_run: Run, tmp_path: Path) -> None:
    booked = desk_day(tmp_path / "keys")
    booked.write(tmp_path, splits=(285,))
    flip(tmp_path, 286)
    verdict = json_of(pks_run(tmp_path, "journal", "verify", "--json"))
    assert (verdict["sound"], verdict["records"]) == (True, 284)
    assert verdict["unfinished"].startswith("record 285: ")
    assert json_of(pks_run(tmp_path, "journal", "stats", "--json"))["records"] == 284


def test_checkpoints_are_compared(pks_run: Run, desk_dir: Path) -> None:
    make_checkpoint(desk_dir, 270)
    verdict = json_of(pks_run(desk_dir, "journal", "verify", "--json"))
    assert verdict["checkpoints"] == [{"sequence": 270, "equal": True}]


def test_checkpoint_that_differs_is_found(pks_run: Run, desk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(positions: Positions) -> dict[str, Any]:
        arrays = positions_arrays(positions)
        arrays["state_lots"]["price_raw"][3] += 1
        return arrays

    monkeypatch.setattr("tests.unit.cli.test_positions.positions_arrays", wrong)
    make_checkpoint(desk_dir, 270)
    assert latest_checkpoint(desk_dir / "checkpoints", 300) is not None
    result = pks_run(desk_dir, "journal", "verify")
    assert result.exit_code == 1
    assert "checkpoint 270: DIFFERS" in result.stdout


def test_digest_does_not_depend_on_the_way(desk_day_dir: Path) -> None:
    records = JournalView(desk_day_dir / "journal").records
    one, steps, less = Positions(records), Positions(records), Positions(records)
    one.apply(records, -1, 1, 286)
    for n in range(1, 287):
        steps.apply(records, -1, n, n)
    less.apply(records, -1, 1, 285)
    assert state_digest(one) == state_digest(steps) != state_digest(less)


@contextmanager
def live_system(data_dir: Path, instance: str, last: int) -> Iterator[topology.Host]:
    """A host whose slots hold what the journal's first `last` events give, as accumulators would have written it."""
    config = Config(data_dir=str(data_dir), instance=instance, shards=1)
    topology.retire_all(instance)
    host = topology.Host.create(config, SIZES, topology.workers_of(1), topology.Starts(events=last))
    try:
        records = JournalView(data_dir / "journal").records
        positions = Positions(records)
        positions.apply(records, -1, 1, last)
        state = positions.shard.state
        for key in state.keys[: state.meta[KEYS_COUNT]]:
            slot = np.frombuffer(key.tobytes()[: POSITION_SLOT.itemsize], POSITION_SLOT)[0]
            host.positions.append(0, (int(key["book_id"]), int(key["instrument_id"])), slot)
        ring_gate(host.events.control, host.events.place("journal"), last)
        host.go_live()
        host.beat(time.monotonic_ns() + HOUR_NS)
        with running_here(data_dir, instance, 1):
            yield host
    finally:
        host.close_all()


def test_live_slots_are_compared(pks_run: Run, desk_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pks.cli.journal.LOOK_NAP_SECONDS", 0.0)
    with live_system(desk_dir, f"testver{os.getpid()}", 286) as host:
        verdict = json_of(pks_run(desk_dir, "journal", "verify", "--json"))
        assert (verdict["compared"], verdict["not_compared"], verdict["differences"]) == (verdict["keys"], 0, [])
        slot = host.positions.read(0).copy()
        slot["qty_raw"] += 1
        host.positions.write(0, slot)
        result = pks_run(desk_dir, "journal", "verify", "--json")
        assert result.exit_code == 1
        (difference,) = json.loads(result.stdout)["differences"]
        assert list(difference["journal_and_slot"]) == ["qty_raw"]
        assert "DIFFERS: " in pks_run(desk_dir, "journal", "verify").stdout
        slot["last_sequence"] += 1
        host.positions.write(0, slot)
        verdict = json_of(pks_run(desk_dir, "journal", "verify", "--json"))
        assert (verdict["not_compared"], verdict["differences"]) == (1, [])


# dump


def test_dump_is_every_event_with_names(pks_run: Run, desk_day_dir: Path) -> None:
    result = pks_run(desk_day_dir, "journal", "dump")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    records = JournalView(desk_day_dir / "journal").records
    assert [event["sequence"] for event in events] == [n for n in range(1, 287) if records[n]["kind"] != Kind.DETAIL]
    by_id = {event["trade_id"]: event for event in events}
    assert (by_id["T0001"]["book"], by_id["T0001"]["quantity"], by_id["T0001"]["kind"]) == ("RU-EQ", "12000", "TRADE")
    assert events[0]["definition"]["type"] == "currency"
    part = [json.loads(line) for line in pks_run(desk_day_dir, "journal", "dump", "--from", "280", "--to", "283").stdout.splitlines()]
    assert part == [event for event in events if 280 <= event["sequence"] <= 283]
    assert pks_run(desk_day_dir, "journal", "dump", "--from", "286", "--to", "285").stdout == ""


def test_dump_ends_at_the_journals_end(pks_run: Run, desk_day_dir: Path) -> None:
    result = pks_run(desk_day_dir, "journal", "dump", "--to", "287")
    assert (result.exit_code, result.stderr) == (1, "pks: event 287 is not in the journal, whose last durable event is 286\n")


def test_raw_dump_has_every_record(pks_run: Run, desk_day_dir: Path) -> None:
    rows = [json.loads(line) for line in pks_run(desk_day_dir, "journal", "dump", "--raw").stdout.splitlines()]
    records = JournalView(desk_day_dir / "journal").records
    assert [row["sequence"] for row in rows] == list(range(1, 287))
    assert [row["checksum"] for row in rows] == [int(records[n]["checksum"]) for n in range(1, 287)]
    detail = next(row for row in rows if row["kind"] == Kind.DETAIL)
    assert detail["text"].startswith("{")


def test_text_dump_is_a_line_an_event(pks_run: Run, desk_day_dir: Path) -> None:
    lines = pks_run(desk_day_dir, "journal", "dump", "--text", "--from", "264").stdout.splitlines()
    assert lines[0].split()[:4] == ["event", "recorded", "kind", "trade"]
    assert len(lines) == 1 + 286 - 263
    assert "T0001" in lines[1]
    assert "RU-EQ" in lines[1]


def test_text_of_a_split() -> None:
    event = {"effective_date": "1970-01-01", "recorded_ns": 0, "flags": ["WHOLE_UNITS", "END_OF_BATCH"], "numerator": 2, "denominator": 1}
    row = text_row(event | {"details": {"note": "x"}})
    assert (row["date"], row["more"]) == (None, "split 2:1, note x, WHOLE_UNITS")


# stats and archive


def test_stats(pks_run: Run, tmp_path: Path) -> None:
    booked = desk_core(tmp_path / "keys")
    last = booked.write(tmp_path, records=64)
    found = json_of(pks_run(tmp_path, "journal", "stats", "--json"))
    records = booked.core.records[1 : last + 1]
    assert found["records"] == last
    assert found["events"] == int((records["kind"] != Kind.DETAIL).sum())
    assert found["kinds"] == {kind.name: count for kind in Kind if (count := int((records["kind"] == kind).sum()))}
    assert sum(file["events"] for file in found["files"]) == last
    assert [file["first"] for file in found["files"][:3]] == [1, 64, 128]
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "journal").iterdir())
    assert found["events_per_second_peak"] == last, "a core's clock stands still"
    assert found["effective_dates"] == {"2025-03-13": int((records["kind"] == Kind.OPENING).sum())}
    said = pks_run(tmp_path, "journal", "stats").stdout
    assert f"{last:,} records of 256 bytes" in said


def test_archive_packs_what_is_old(pks_run: Run, tmp_path: Path) -> None:
    booked = desk_day(tmp_path / "keys")
    booked.write(tmp_path, records=64, splits=(64, 128, 192, 256))
    before = pks_run(tmp_path, "journal", "dump").stdout
    dry = pks_run(tmp_path, "journal", "archive", "--dry-run")
    assert dry.stdout.count("would pack") == 4
    assert pks_run(tmp_path, "journal", "archive", "--older-than", "36500").stdout.startswith("nothing to pack")
    result = pks_run(tmp_path, "journal", "archive")
    assert result.stdout.startswith("packed 4 file(s)")
    assert sorted(path.suffix for path in (tmp_path / "journal").iterdir()) == [".events"] + 4 * [".gz"]
    assert pks_run(tmp_path, "journal", "dump").stdout == before
    assert json_of(pks_run(tmp_path, "journal", "verify", "--json"))["sound"]
    packed = [file["packed"] for file in json_of(pks_run(tmp_path, "journal", "stats", "--json"))["files"]]
    assert packed == 4 * ["packed"] + [""]
    assert pks_run(tmp_path, "journal", "archive").stdout.startswith("nothing to pack")
