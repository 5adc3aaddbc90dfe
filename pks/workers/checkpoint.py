"""Checkpoints: the folded state at a sequence, in one file, from which a start goes on with the rest of the journal.

Owns the file's form and which one to trust. Written by the shadow; read by capture, the accumulators, the shadow and questions about
the past. A file that does not fit (layout, rules, checksum) is passed over: the journal is the truth, a checkpoint only saves time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.errors import Fatal
from pks.engine.booking.dedup import SEQUENCE as ENTRY_SEQUENCE
from pks.engine.instruments.definitions import decode, encode
from pks.engine.lots.shard import MovedSet
from pks.engine.lots.snapshot import export_state, import_state
from pks.layouts.codes import Subject
from pks.layouts.match import MATCH
from pks.layouts.state import STATE_LAYOUT_VERSION
from pks.workers.booking import Booking
from pks.workers.positions import Positions

MAGIC = b"PKSCKPT1"
RULES_VERSION = 2
DIGEST_BYTES = 32
KEPT = 2
SUFFIX = ".checkpoint"
LOOKS_MAX = 100
"""Checkpoints that may be removed while one is looked for; the shadow writes one in seconds at most."""


class CheckpointBeyondJournal(Fatal):
    """A checkpoint knows events that the journal does not have: the journal was lost or restored from an old copy."""

    def __init__(self, path: Path, sequence: int, last: int) -> None:
        super().__init__(f"{path.name} reflects event {sequence}, the journal ends at {last}: journal lost or restored from an old copy")
        self.path, self.sequence, self.last = path, sequence, last


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: facts (JSON) and arrays, as of `sequence`."""

    path: Path
    sequence: int
    facts: dict[str, Any]
    arrays: dict[str, Any]


def capture_arrays(booking: Booking) -> tuple[dict[str, Any], dict[str, Any]]:
    """(facts, arrays) of capture's fold."""
    tables = booking.tables
    versions = booking.versions
    arrays = {
        "dedup": tables.dedup[tables.dedup[:, ENTRY_SEQUENCE] != 0],
        "dates": tables.dates,
        "chains": tables.chains[tables.chains[:, 0] != 0],
        "instrument_chain": tables.instrument_chain,
    }
    definitions = []
    for subject in Subject:
        for row_id, definition in booking.catalogue.rows(subject):
            definitions.append([int(subject), row_id, booking.catalogue.sequence_of(subject, row_id), encode(definition).decode()])
    facts = {
        "recorded_ns": booking.recorded_ns,
        "epoch": booking.epoch,
        "last_kind": booking.last_kind,
        "definitions": sorted(definitions, key=lambda row: (row[2], row[0])),
        "latest": sorted(versions.latest.items()),
        "moved": sorted(versions.moved.items()),
        "blocks": sorted(versions.blocks.items()),
        "second_keys": [[*key, value] for key, value in sorted(versions.second_keys.items())],
        "cancelled": sorted(versions.cancelled.items()),
        "lot_names": [[*name, value] for name, value in sorted(versions.lot_names.items())],
    }
    return facts, arrays


def positions_arrays(positions: Positions, reentries: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """The arrays of a fold of all books. reentries: (transfer, cause) whose amendment is not in the journal yet."""
    arrays = {f"state_{name}": value for name, value in export_state(positions.shard.state).items()}
    return arrays | moved_arrays(positions, reentries)


def moved_arrays(positions: Positions, reentries: Sequence[tuple[int, int]] = ()) -> dict[str, Any]:
    """The arrays of lots on their way: moved sets, and what is owed. Arguments as `positions_arrays`."""
    arrays: dict[str, Any] = {}
    sets = [made for _, made_sets in sorted(positions.shard.sets.items()) for made in made_sets]
    arrays["set_heads"] = np.array([(s.transfer, s.version, s.code, len(s.moves)) for s in sets], np.int64).reshape(-1, 4)
    arrays["set_moves"] = np.concatenate([s.moves for s in sets]) if sets else np.zeros(0, MATCH)
    records, mask = positions.shard.records, positions.shard.mask
    owed = [(transfer, cause, int(records[transfer & mask]["book_id"])) for transfer, cause in reentries]
    arrays["reentries"] = np.array(owed, np.int64).reshape(-1, 3)
    return arrays


def _no_point(_: str) -> None:
    """A kill point where none is armed."""


def write_checkpoint(
    directory: Path, sequence: int, facts: dict[str, Any], arrays: dict[str, Any], point: Callable[[str], None] = _no_point
) -> Path:
    """Write the file durably, then drop all but the newest KEPT. Raises OSError when the disk has no room. point: kill points inside."""
    facts = {**facts, "sequence": sequence, "layout": STATE_LAYOUT_VERSION, "rules": RULES_VERSION}
    body = io.BytesIO()
    np.savez(body, **{"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays})
    data = body.getbuffer()
    path = directory / f"{sequence:020d}{SUFFIX}"
    making = path.with_suffix(".making")
    with making.open("wb") as out:
        out.write(MAGIC + hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())
        out.write(data[: len(data) // 2])
        point("in_checkpoint")
        out.write(data[len(data) // 2 :])
        out.flush()
        os.fsync(out.fileno())
    point("before_rename")
    making.rename(path)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for old in sorted(directory.glob(f"*{SUFFIX}"))[:-KEPT]:
        old.unlink()
    return path


def read_checkpoint(path: Path) -> Checkpoint | None:
    """The file's content, or None when it is broken or of another layout or other rules."""
    raw = path.read_bytes()
    data = raw[len(MAGIC) + DIGEST_BYTES :]
    if not raw.startswith(MAGIC) or hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() != raw[len(MAGIC) :][:DIGEST_BYTES]:
        return None
    with np.load(io.BytesIO(data)) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    facts = json.loads(bytes(arrays.pop("facts")).decode())
    if (facts["layout"], facts["rules"]) != (STATE_LAYOUT_VERSION, RULES_VERSION):
        return None
    return Checkpoint(path, int(facts["sequence"]), facts, arrays)


def checkpoints(directory: Path) -> Iterator[Path]:
    """Files, newest first."""
    yield from sorted(directory.glob(f"*{SUFFIX}"), reverse=True)


def latest_checkpoint(directory: Path, at_most: int) -> Checkpoint | None:
    """The newest sound checkpoint with a sequence <= at_most. The shadow may remove older ones while we look: then there are newer ones."""
    for look in range(1, LOOKS_MAX + 1):
        try:
            for path in checkpoints(directory):
                found = read_checkpoint(path) if int(path.stem) <= at_most else None
                if found is not None:
                    return found
        except FileNotFoundError:
            if look == LOOKS_MAX:
                raise
        else:
            break
    return None


def check_not_beyond(directory: Path, last: int) -> None:
    """Raise CheckpointBeyondJournal if any checkpoint reflects more than the journal's last event."""
    for path in checkpoints(directory):
        if int(path.stem) > last:
            raise CheckpointBeyondJournal(path, int(path.stem), last)


def load_definitions(checkpoint: Checkpoint, take: Any) -> None:
    """Call take(subject, row id, sequence, definition) for every definition, in the order of their latest events.

    Before that once for each, with sequence 0 and in an order in which what is named comes before what names it: a row that was
    defined again later than those that name it would come too late by its event.
    """
    rows = [
        (Subject(subject), row_id, sequence, decode(text.encode())) for subject, row_id, sequence, text in checkpoint.facts["definitions"]
    ]
    for subject, row_id, _, definition in sorted(rows, key=lambda row: row[:2]):  # subjects are numbered in that order
        take(subject, row_id, 0, definition)
    for row in rows:
        take(*row)


def load_booking(booking: Booking, checkpoint: Checkpoint) -> None:
    """Bring an empty capture fold to the checkpoint."""
    facts, arrays = checkpoint.facts, checkpoint.arrays

    def take(subject: Subject, row_id: int, sequence: int, definition: Any) -> None:
        booking.catalogue.apply(subject, row_id, definition, sequence)
        booking.take_definition(subject, row_id, definition)

    load_definitions(checkpoint, take)
    booking.load_tables(arrays["dedup"], arrays["dates"], arrays["chains"], arrays["instrument_chain"])
    booking.sequence, booking.recorded_ns = checkpoint.sequence, facts["recorded_ns"]
    booking.epoch, booking.last_kind = facts["epoch"], facts["last_kind"]
    versions = booking.versions
    versions.latest.update(map(tuple, facts["latest"]))
    versions.moved.update(map(tuple, facts["moved"]))
    versions.blocks.update(map(tuple, facts["blocks"]))
    versions.second_keys.update({(hi, lo): sequence for hi, lo, sequence in facts["second_keys"]})
    versions.cancelled.update(map(tuple, facts["cancelled"]))
    versions.lot_names.update({(instrument_id, name): sequence for instrument_id, name, sequence in facts["lot_names"]})


def load_positions(positions: Positions, checkpoint: Checkpoint) -> None:
    """Bring an empty fold of one shard to the checkpoint."""
    shard = positions.shard
    load_definitions(
        checkpoint, lambda subject, row_id, sequence, definition: positions.catalogue.apply(subject, row_id, definition, sequence)
    )
    arrays = {name.removeprefix("state_"): value for name, value in checkpoint.arrays.items() if name.startswith("state_")}
    shard.state = import_state(arrays, shard.index, shard.shards, keys=len(shard.state.keys), lots=len(shard.state.lots))
    start = 0
    for transfer, version, code, count in checkpoint.arrays["set_heads"].tolist():
        moves = checkpoint.arrays["set_moves"][start : start + count]
        start += count
        shard.sets.setdefault(transfer, []).append(MovedSet(transfer, version, code, moves))
    shard.reentries += [(transfer, cause) for transfer, cause, book in checkpoint.arrays["reentries"].tolist() if shard.owns(book)]
