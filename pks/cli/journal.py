"""`pks journal`: the journal checked, dumped, counted, packed; with and without a running system."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np

from pks.base.clock import NS_PER_DAY, NS_PER_SECOND, format_date, format_time
from pks.cli.group import EXIT_REFUSED, quiet_config, system_options
from pks.cli.parameters import SEQUENCE
from pks.cli.tables import Column, binary_stdout, note, progress, say, write_ndjson, write_table
from pks.layouts.codes import Kind

if TYPE_CHECKING:
    from pks.past.journal import Past
    from pks.segments.journal_file import JournalFile
    from pks.workers.positions import Positions

DUMP_STEP = 1 << 12
STATS_STEP = 1 << 16
PROBLEMS_SHOWN_MAX = 100
"""Damaged records that are named one by one; a broken disk may have a million."""

LOOKS = 50
LOOK_NAP_SECONDS = 0.02
"""Live slots move while they are compared: one that has gone on is looked at again so often, so long apart."""

TEXT_COLUMNS = (
    Column("sequence", "int", "event"),
    Column("recorded"),
    Column("kind"),
    Column("trade_id", title="trade"),
    Column("book"),
    Column("to_book"),
    Column("instrument"),
    Column("side"),
    Column("quantity", "decimal"),
    Column("price", "decimal"),
    Column("date", "date"),
    Column("original", "int"),
    Column("more"),
)

FILE_COLUMNS = (
    Column("name"),
    Column("first", "int"),
    Column("last", "int"),
    Column("events", "int"),
    Column("bytes", "int"),
    Column("packed"),
    Column("recorded_from", "time", "from"),
    Column("recorded_to", "time", "to"),
)


@click.group()
def journal() -> None:
    """The journal of events: what must never be lost."""


# verify


@dataclass
class Verdict:
    """What a check of the journal found."""

    records: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    problems_count: int = 0
    unfinished: str | None = None
    replayed: int | None = None
    keys: int | None = None
    state_hash: str | None = None
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    compared: int | None = None
    not_compared: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems_count and not self.differences and all(one["equal"] for one in self.checkpoints)


@journal.command()
@system_options
@click.option("--no-replay", is_flag=True, help="only bytes, order, batches, groups, times and links")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def verify(no_replay: bool, as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Check every record's checksum and link, then replay all events and compare with checkpoints and with live slots.

    \b
    pks journal verify
    pks journal verify --no-replay --json

    Changes nothing. Exit 1 if anything is damaged or differs. Without a running system there are no live slots to compare with.
    """
    from pks.past.journal import open_past
    from pks.segments.journal_recovery import verify as verify_records

    settings = quiet_config(config, data_dir, instance)
    directory = Path(settings.data_dir) / "journal"
    verdict = Verdict()
    if directory.is_dir():
        for problem in verify_records(directory):
            where = {"file": problem.file.name, "sequence": problem.sequence, "reason": problem.reason}
            if problem.unfinished:
                verdict.unfinished = f"record {problem.sequence}: {problem.reason}"
                continue
            verdict.problems_count += 1
            if verdict.problems_count <= PROBLEMS_SHOWN_MAX:
                verdict.problems.append(where)
    if verdict.problems_count:
        _say_verdict(verdict, as_json)
        sys.exit(EXIT_REFUSED)
    past = open_past(settings, progress)
    verdict.records = past.last
    if not no_replay:
        _replay(past, verdict)
    _say_verdict(verdict, as_json)
    if not verdict.is_sound:
        sys.exit(EXIT_REFUSED)


def _replay(past: Past, verdict: Verdict) -> None:
    """Fold from the first event; stop at each checkpoint to compare, then at the end with live slots."""
    from pks.engine.lots.state import KEYS_COUNT
    from pks.past.journal import advance
    from pks.workers.checkpoint import checkpoints
    from pks.workers.positions import Positions

    folded = Positions(past.records, keys=1 << 12, lots=1 << 14)
    at = 0
    for path in sorted(checkpoints(past.paths.checkpoints)):
        sequence = int(path.stem)
        if sequence <= past.last:
            advance(folded, past.records, at, sequence, progress=progress)
            at = sequence
            equal = _equals_checkpoint(folded, path)
            if equal is not None:
                verdict.checkpoints.append({"sequence": sequence, "equal": equal})
    advance(folded, past.records, at, past.last, progress=progress)
    verdict.replayed, verdict.keys = past.last, int(folded.shard.state.meta[KEYS_COUNT])
    verdict.state_hash = state_digest(folded)
    if past.running is not None:
        _compare_live(past, folded, verdict)


def state_digest(folded: Positions) -> str:
    """128 bits of all positions with their lots, equal for equal state, however it was folded."""
    from pks.engine.lots.check import state_hash

    return f"{state_hash(folded.shard.state):032x}"


def _equals_checkpoint(folded: Positions, path: Path) -> bool | None:
    """Does the checkpoint hold the state that its events give? None for one that no start would use, or that is gone by now."""
    from pks.workers.checkpoint import load_positions, read_checkpoint
    from pks.workers.positions import Positions

    try:
        found = read_checkpoint(path)
    except FileNotFoundError:  # the shadow keeps the newest ones only
        return None
    if found is None:
        note(f"{path.name} is damaged or of another version and is passed over, as a start would do")
        return None
    loaded = Positions(folded.shard.records)
    load_positions(loaded, found)
    return state_digest(loaded) == state_digest(folded)


def _compare_live(past: Past, folded: Positions, verdict: Verdict) -> None:
    """Compare every live slot with ours at the same event; while the system goes on, our fold follows."""
    from pks.engine.lots.state import KEYS_COUNT
    from pks.past.journal import advance
    from pks.topology import Host

    assert past.running is not None, "a live comparison needs a running system"
    host = Host.open(past.running.instance, past.data_dir)
    at, waiting = past.last, set(range(int(folded.shard.state.meta[KEYS_COUNT])))
    verdict.compared = 0
    for look in range(LOOKS):
        done, differences = compare_slots(folded, host, waiting)
        verdict.compared += len(done)
        verdict.differences += differences
        waiting -= done
        if not waiting:
            break
        if look:
            time.sleep(LOOK_NAP_SECONDS)
        durable = host.durable_sequence
        past.view.refresh()
        advance(folded, past.records, at, durable, progress=progress)
        at = durable
    verdict.not_compared = len(waiting)


def compare_slots(folded: Positions, host: Any, keys: set[int]) -> tuple[set[int], list[dict[str, Any]]]:
    """(keys whose slot reflects the same event as our fold, those of them that say something else)."""
    from pks.layouts.slots import POSITION_SLOT

    state, table, catalogue = folded.shard.state, host.positions, folded.catalogue
    fields = [name for name in POSITION_SLOT.names or () if name != "version" and not name.startswith("_")]
    done: set[int] = set()
    differences: list[dict[str, Any]] = []
    for k in keys:
        ours = state.keys[k]
        book_id, instrument_id = int(ours["book_id"]), int(ours["instrument_id"])
        row = table.find((book_id, instrument_id))
        if row is None:
            continue
        live = table.read(row)
        if int(live["last_sequence"]) != int(ours["last_sequence"]):
            continue
        done.add(k)
        pairs = {name: [str(ours[name].tolist()), str(live[name].tolist())] for name in fields}
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if wrong:
            instrument, book = catalogue.instrument(instrument_id).code, catalogue.book(book_id).code
            differences.append({"book": book, "instrument": instrument, "sequence": int(live["last_sequence"]), "journal_and_slot": wrong})
    return done, differences


def _say_verdict(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        with binary_stdout() as out:
            out.write(msgspec.json.format(msgspec.json.encode({"sound": verdict.is_sound, **vars(verdict)}), indent=1) + b"\n")
        return
    for problem in verdict.problems:
        say(f"{problem['file']}: record {problem['sequence']}: {problem['reason']}\n")
    if verdict.problems_count > len(verdict.problems):
        say(f"and {verdict.problems_count - len(verdict.problems)} more\n")
    if verdict.problems_count:
        say(f"DAMAGED: {verdict.problems_count} record(s); nothing was changed, restore the file from a copy\n")
        return
    say(f"records: {verdict.records:,} sound\n")
    if verdict.unfinished:
        say(f"behind them a batch that was never acknowledged: {verdict.unfinished}\n")
    if verdict.replayed is None:
        return
    say(f"replayed: {verdict.replayed:,} events, {verdict.keys:,} positions, state hash {verdict.state_hash}\n")
    for one in verdict.checkpoints:
        say(f"checkpoint {one['sequence']}: {'equal' if one['equal'] else 'DIFFERS'}\n")
    if verdict.compared is None:
        say("live slots: none, the system is not running\n")
        return
    waiting = f", {verdict.not_compared:,} moved too fast to be compared" if verdict.not_compared else ""
    say(f"live slots: {verdict.compared:,} compared, {len(verdict.differences)} different{waiting}\n")
    for one in verdict.differences:
        names = ", ".join(f"{name} {ours} in the journal, {live} in the slot" for name, (ours, live) in one["journal_and_slot"].items())
        say(f"DIFFERS: {one['book']} {one['instrument']} at event {one['sequence']}: {names}\n")


# dump


@journal.command()
@system_options
@click.option("--from", "first", type=click.IntRange(min=1), default=1, metavar="SEQ", help="first event")
@click.option("--to", "last", type=SEQUENCE, metavar="SEQ", help="last event")
@click.option("--raw", is_flag=True, help="every record as it is stored: raw integers and ids, DETAILs and checksums too")
@click.option("--text", "as_text", is_flag=True, help="a table for people")
def dump(first: int, last: int | None, raw: bool, as_text: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Print events as NDJSON: one object a line, names instead of ids, decimals as strings.

    \b
    pks journal dump --from 1000 --to 1100
    pks journal dump --text | less
    pks journal dump --raw --from 17 --to 17

    Ends at the last durable event. Reading is checked by `pks journal verify`; a damaged record is dumped as it is.
    """
    from pks.past.journal import open_past

    if raw and as_text:
        raise click.UsageError("give one of --raw and --text")
    past = open_past(quiet_config(config, data_dir, instance), progress)
    stop = past.upto(last)
    if raw:
        write_ndjson(_raw_rows(past, first, stop))
    elif as_text:
        write_table(TEXT_COLUMNS, map(text_row, _event_rows(past, first, stop)), empty="no events")
    else:
        write_ndjson(_event_rows(past, first, stop))


def _raw_rows(past: Past, first: int, last: int) -> Iterator[dict[str, Any]]:
    from pks.cli.shm_read import as_json_row
    from pks.layouts.event import DETAIL

    for sequence in range(first, last + 1):
        record = past.records[sequence]
        if int(record["kind"]) == Kind.DETAIL:
            record = past.records[sequence : sequence + 1].view(DETAIL)[0]
            row = as_json_row(record)
            row["text"] = bytes(record["text"]).decode("utf-8", "replace").rstrip("\0")
            yield row
        else:
            yield as_json_row(record)


def _event_rows(past: Past, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Events with names. Ids are never reused, so the reference data up to the last event has all of them."""
    from pks.workers.dump import dump_events

    catalogue = past.catalogue(last)
    for start in range(first, last + 1, DUMP_STEP):
        yield from dump_events(past.records, -1, start, min(last, start + DUMP_STEP - 1), catalogue)


def text_row(event: dict[str, Any]) -> dict[str, Any]:
    """An event of the NDJSON as a line for people."""
    parts = [f"fee {event['fee']} {event['fee_currency']}"] if event.get("fee") else []
    if event.get("numerator"):
        parts.append(f"split {event['numerator']}:{event['denominator']}")
    if definition := event.get("definition"):
        parts.append(f"{definition.get('type')} {definition.get('id')}")
    parts += [f"{name} {value}" for name, value in (event.get("details") or {}).items()]
    parts += [flag for flag in event["flags"] if flag not in ("END_OF_BATCH", "HAS_DETAIL", "HAS_PRICE", "HAS_FEE", "HAS_BUSINESS_DATE")]
    date = event["effective_date"] if event["effective_date"] != "1970-01-01" else None
    return event | {"recorded": format_time(event["recorded_ns"], 3), "date": date, "more": ", ".join(parts)}


# stats


@journal.command()
@system_options
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def stats(as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Count: files, records by kind and by effective date, rates, sizes.

    \b
    pks journal stats
    pks journal stats --json
    """
    from pks.past.journal import open_past

    past = open_past(quiet_config(config, data_dir, instance), progress)
    found = count(past)
    if as_json:
        with binary_stdout() as out:
            out.write(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        return
    _say_stats(found)


def count(past: Past) -> dict[str, Any]:
    """The answer of `pks journal stats --json`."""
    kinds, dates = np.zeros(256, np.int64), np.zeros(1 << 17, np.int64)
    batches, peak, second, in_second = 0, 0, -1, 0
    records = past.records
    with progress(past.last, "counting") as bar:
        for first in range(1, past.last + 1, STATS_STEP):
            part = records[first : min(past.last, first + STATS_STEP - 1) + 1]
            kinds += np.bincount(part["kind"], minlength=256)
            dated = part["effective_date"][(part["kind"] <= Kind.FIXING) & (part["effective_date"] > 0)]
            dates += np.bincount(dated, minlength=len(dates))[: len(dates)]
            batches += int((part["batch_first"] == part["sequence"]).sum())
            seconds, counts = np.unique(part["recorded_ns"] // NS_PER_SECOND, return_counts=True)
            for at, events in zip(seconds.tolist(), counts.tolist(), strict=True):
                in_second = events + (in_second if at == second else 0)
                second, peak = at, max(peak, in_second)
            bar.update(len(part))
    files = [_file_row(past, file) for file in past.view.files]
    names = {kind.name: int(kinds[kind]) for kind in Kind if kinds[kind]}
    first_ns, last_ns = (int(records[n]["recorded_ns"]) if past.last else 0 for n in (1, max(past.last, 1)))
    days = np.flatnonzero(dates)
    return {
        "directory": str(past.paths.journal),
        "files": files,
        "records": past.last,
        "events": past.last - int(kinds[Kind.DETAIL]),
        "bytes": sum(file["bytes"] for file in files),
        "record_bytes": records.dtype.itemsize,
        "kinds": names,
        "batches": batches,
        "starts": int(kinds[Kind.EPOCH]),
        "recorded_from": format_time(first_ns) if past.last else None,
        "recorded_to": format_time(last_ns) if past.last else None,
        "events_per_second_peak": peak,
        "effective_dates": {format_date(day): int(dates[day]) for day in days.tolist()},
    }


def _file_row(past: Past, file: JournalFile) -> dict[str, Any]:
    first, last = max(1, file.first_sequence), min(file.last_sequence, past.last)
    written = last >= first
    return {
        "name": file.path.name,
        "first": first,
        "last": last if written else None,
        "events": last - first + 1 if written else 0,
        "bytes": file.path.stat().st_size,
        "packed": "packed" if file.packed else "",
        "recorded_from": format_time(int(past.records[first]["recorded_ns"]), 0) if written else None,
        "recorded_to": format_time(int(past.records[last]["recorded_ns"]), 0) if written else None,
    }


def _say_stats(found: dict[str, Any]) -> None:
    write_table(FILE_COLUMNS, found["files"], empty="no files")
    in_batches = f"{found['records']:,} records of {found['record_bytes']} bytes in {found['batches']:,} batches"
    lines = ["", f"{in_batches}, {found['bytes']:,} bytes of files"]
    if found["records"]:
        peak = f"at most {found['events_per_second_peak']:,} in a second"
        lines.append(f"recorded {found['recorded_from']} to {found['recorded_to']}, {peak}")
        lines += ["", "kinds:"] + [f"  {name:12} {number:>14,}" for name, number in found["kinds"].items()]
        dates = found["effective_dates"]
        if dates:
            ordered = list(dates.items())
            shown = ordered if len(ordered) <= 12 else [*ordered[:5], ("...", None), *ordered[-6:]]
            lines += ["", f"effective dates: {len(ordered)}"]
            lines += [f"  {day:12} {number:>14,}" if number is not None else f"  {day}" for day, number in shown]
    say("\n".join(lines) + "\n")


# archive


@journal.command()
@system_options
@click.option("--older-than", type=click.IntRange(min=0), metavar="DAYS", help="instead of journal.retention_days of the configuration")
@click.option("--dry-run", is_flag=True, help="say what would be packed")
def archive(older_than: int | None, dry_run: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Pack closed journal files whose last event is older than the retention; readers unpack them by themselves.

    \b
    pks journal archive
    pks journal archive --older-than 0 --dry-run

    Every record is checked, the packed file compared with the plain one, and only then is the plain one removed. No event is ever
    deleted. Works beside a running system.
    """
    from pks.past.journal import NoJournal
    from pks.segments.journal_archive import pack_file, packable_files

    settings = quiet_config(config, data_dir, instance)
    directory = Path(settings.data_dir) / "journal"
    if not directory.is_dir():
        raise NoJournal(Path(settings.data_dir))
    days = settings.journal.retention_days if older_than is None else older_than
    chosen = _older_than(directory, packable_files(directory), time.time_ns() - days * NS_PER_DAY)
    if dry_run or not chosen:
        for file in chosen:
            say(f"would pack {file.path.name}, {file.path.stat().st_size:,} bytes\n")
        if not chosen:
            say(f"nothing to pack: no closed file is older than {days} day(s)\n")
        return
    before = after = 0
    with progress(len(chosen), "packing") as bar:
        for file in chosen:
            before += file.path.stat().st_size
            after += pack_file(directory, file.first_sequence).stat().st_size
            bar.update(1)
    say(f"packed {len(chosen)} file(s): {before:,} bytes are {after:,} now\n")


def _older_than(directory: Path, files: list[JournalFile], limit_ns: int) -> list[JournalFile]:
    """Those whose last event was recorded before `limit_ns`."""
    from pks.segments.journal_view import JournalView

    if not files:
        return []
    view = JournalView(directory)
    return [file for file in files if int(view.records[file.last_sequence]["recorded_ns"]) < limit_ns]
