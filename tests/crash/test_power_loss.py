"""Power loss at every step of the journal: whatever the disk kept of what was not flushed, no acknowledged event is lost.

A `RecordingDisk` does the real work and keeps, beside it, what the platter is sure to hold: bytes that were flushed, names whose
directory was flushed. Before each effect, and after each acknowledgement, crash images are made: all that was sure, plus any subset
of the pages (also of sectors, and of lines, so that records are torn) that were written and not flushed. Each image is recovered
and judged. The same judge must find losses when fdatasync, or the flush of a new file or of its name, is taken out, or when
recovery does not flush what it found.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pks.base.errors import Fatal
from pks.layouts.event import EVENT, EVENT_BYTES
from pks.segments.journal import JournalWriter
from pks.segments.journal_errors import JournalFull
from pks.segments.journal_file import Disk
from pks.segments.journal_recovery import Recovered, recover, verify
from pks.segments.journal_view import JournalView
from tests.unit.segments.test_journal import CREATED_NS, Records, sealed

RECORDS = 32
PAGE_BYTES, SECTOR_BYTES, LINE_BYTES = 4096, 512, 64


class Platter:
    """One file as the disk has it: bytes that are sure, and writes that may or may not have arrived, in part."""

    def __init__(self, sure: bytes = b"", unsure: list[tuple[int, bytes]] | None = None, size: int | None = None) -> None:
        self.sure, self.unsure = bytearray(sure), list(unsure or [])
        self.size_unsure = size

    def flush(self) -> None:
        self.sure = bytearray(self.image(None, PAGE_BYTES))
        self.unsure, self.size_unsure = [], None

    def copy(self) -> Platter:
        return Platter(bytes(self.sure), self.unsure, self.size_unsure)

    def image(self, chance: Chance | None, unit_bytes: int) -> bytes:
        """The bytes after a power loss: of the writes to each unit the first few have arrived, `chance` says how many (None: all)."""
        raw = bytearray(self.sure)
        if self.size_unsure is not None and (chance is None or chance(1)):
            raw.extend(bytes(self.size_unsure - len(raw)))
        pieces: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in self.unsure:
            for start, end in self._units(offset, len(data), unit_bytes):
                pieces.setdefault(start // unit_bytes, []).append((start, data[start - offset : end - offset]))
        for unit_pieces in pieces.values():
            arrived = len(unit_pieces) if chance is None else chance(len(unit_pieces))
            for start, data in unit_pieces[:arrived]:
                if len(raw) < start + len(data):
                    raw.extend(bytes(start + len(data) - len(raw)))
                raw[start : start + len(data)] = data
        return bytes(raw)

    @staticmethod
    def _units(offset: int, size: int, unit_bytes: int) -> list[tuple[int, int]]:
        """The parts of [offset, offset + size), cut at multiples of unit_bytes."""
        end = offset + size
        cuts = [offset, *range((offset // unit_bytes + 1) * unit_bytes, end, unit_bytes), end]
        return list(itertools.pairwise(cuts))


Chance = Callable[[int], int]
"""chance(n): how many of n things happened, 0 to n."""


def nothing(_count: int) -> int:
    return 0


def everything(count: int) -> int:
    return count


class RecordingDisk(Disk):
    """A disk that knows what a power loss would leave. `before` is called before every effect."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory  # of the journal; that of the first file when none is given
        self.before: Callable[[], None] = lambda: None
        self.named: dict[str, Platter] = {}  # as the running system sees the directory
        self.sure_names: dict[str, Platter] = {}
        self.effects_count = 0
        self._opened: dict[int, Platter] = {}

    def _effect(self) -> None:
        self.effects_count += 1
        self.before()

    def open(self, path: Path, flags: int) -> int:
        self._effect()
        descriptor = super().open(path, flags)
        self.directory = self.directory or path.parent
        if flags & os.O_TRUNC:
            self.named[path.name] = Platter()
        self._opened[descriptor] = self.named[path.name]
        return descriptor

    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        self._effect()
        super().preallocate(descriptor, size_bytes)
        self._opened[descriptor].size_unsure = size_bytes

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        self._effect()
        taken = super().pwrite(descriptor, data, offset)
        self._opened[descriptor].unsure.append((offset, bytes(data[:taken])))
        return taken

    def fdatasync(self, descriptor: int) -> None:
        self._effect()
        self._opened[descriptor].flush()

    def fsync(self, descriptor: int) -> None:
        self._effect()
        self._opened[descriptor].flush()

    def rename(self, source: Path, target: Path) -> None:
        self._effect()
        super().rename(source, target)
        self.named[target.name] = self.named.pop(source.name)

    def unlink(self, path: Path) -> None:
        self._effect()
        super().unlink(path)
        del self.named[path.name]

    def fsync_directory(self, path: Path) -> None:
        self._effect()
        if path == self.directory:
            self.sure_names = dict(self.named)

    def write_image(self, directory: Path, chance: Chance, unit_bytes: int) -> None:
        """Fill an empty directory with what a power loss now would leave."""
        for name, platter in (self.named if chance(1) else self.sure_names).items():
            (directory / name).write_bytes(platter.image(chance, unit_bytes))

    def survivor(self, directory: Path) -> RecordingDisk:
        """As after a kill -9: an empty directory filled with all that the system still holds, and a disk on it, as unsure as this one."""
        other = RecordingDisk(directory)
        copies = {id(platter): platter.copy() for platter in [*self.named.values(), *self.sure_names.values()]}
        other.named = {name: copies[id(platter)] for name, platter in self.named.items()}
        other.sure_names = {name: copies[id(platter)] for name, platter in self.sure_names.items()}
        for name, platter in self.named.items():
            (directory / name).write_bytes(platter.image(None, PAGE_BYTES))
        return other


class Run:
    """One writer on one recording disk, with everything that it was given and what it acknowledged."""

    def __init__(self, place: Path, disk: RecordingDisk, rng: np.random.Generator) -> None:
        self.place, self.disk, self.rng = place, disk, rng
        self.records: list[Records] = []  # of each batch, in order
        self.ends = [0]  # of the batches that were begun
        self.acknowledged = 0
        self.verdicts: list[str] = []
        self.images_count = self.cuts_count = 0
        self._numbers = itertools.count()
        self.looks_at_all: Callable[[], None] = self.look
        disk.before = lambda: self.looks_at_all()
        self.writer = JournalWriter(place / "journal", 0, wall_ns=lambda: CREATED_NS, records=RECORDS, instance="test", disk=disk)

    def append(self, groups: list[int]) -> None:
        first = self.ends[-1] + 1
        batch = sealed(first, groups)
        self.records.append(batch)
        self.ends.append(first + len(batch) - 1)
        while True:
            try:
                self.writer.append(batch, first, self.ends[-1])
                break
            except JournalFull:
                continue
        self.acknowledged = self.ends[-1]
        self.looks_at_all()

    def random_batches(self, count: int) -> None:
        for _ in range(count):
            self.append([int(size) for size in self.rng.integers(1, 6, self.rng.integers(1, 9))])
            if self.rng.random() < 0.5:
                with suppress(JournalFull):
                    self.writer.prepare_next()

    def empty_directory(self) -> Path:
        directory = self.place / f"image-{next(self._numbers)}"
        directory.mkdir()
        return directory

    def chances(self, subsets: int) -> list[Chance]:
        return [nothing, everything, *[lambda count: int(self.rng.integers(0, count + 1))] * subsets]

    def look(self) -> None:
        """Power goes now: judge the two extremes and some random images, torn at pages, sectors and lines."""
        for chance, unit_bytes in zip(self.chances(3), itertools.cycle((PAGE_BYTES, SECTOR_BYTES, LINE_BYTES)), strict=False):
            directory = self.empty_directory()
            self.disk.write_image(directory, chance, unit_bytes)
            self.judge(directory, self.acknowledged)

    def judge(self, directory: Path, acknowledged: int, disk: Disk | None = None) -> Recovered | None:
        """Recover an image and note what is wrong with the outcome; what was recovered, or None when it refused."""
        self.images_count += 1
        try:
            found = recover(directory, instance="test", records=RECORDS, disk=disk)
        except Fatal as error:
            self.verdicts.append(f"refused: {error}")
            return None
        self.cuts_count += found.cut is not None
        if found.last < acknowledged:
            self.verdicts.append(f"lost: {acknowledged} was acknowledged, {found.last} is there")
        if found.last not in self.ends:
            self.verdicts.append(f"part of a batch: {found.last} is no batch's end")
        self._judge_content(JournalView(directory), found.last)
        for problem in verify(directory):
            self.verdicts.append(f"verify: {problem}")
        if recover(directory) != Recovered(1, found.last, None):
            self.verdicts.append("recovering twice gives two outcomes")
        return found

    def _judge_content(self, view: JournalView, last: int) -> None:
        if last > 0:
            assert EVENT.fields is not None
            head_bytes = EVENT.fields["batch_first"][1]
            given = np.concatenate(self.records)[:last].view(np.uint8).reshape(last, EVENT_BYTES)
            kept = view.records[1 : last + 1].view(np.uint8).reshape(last, EVENT_BYTES)
            if not np.array_equal(given[:, :head_bytes], kept[:, :head_bytes]):
                self.verdicts.append(f"changed: records up to {last} are not those that were given")
        if view.records[last + 1 : view.extent[1] + 1].tobytes().strip(b"\0"):
            self.verdicts.append(f"left over: bytes behind {last}")


@pytest.fixture
def place(tmp_path: Path, seed: int) -> Path:
    print(f"seed {seed}")
    return tmp_path


def test_no_image_loses_what_was_acknowledged(place: Path, rng: np.random.Generator) -> None:
    run = Run(place, RecordingDisk(), rng)
    run.random_batches(14)
    assert run.verdicts == []
    assert run.acknowledged > 4 * RECORDS, "several files were written"
    assert run.images_count > 400
    assert run.cuts_count > 50, "torn batches were among the images"


def test_power_lost_again_during_recovery(place: Path, rng: np.random.Generator) -> None:
    """Each effect of a recovery is a point where power can go too; the outcome is never less than what was acknowledged."""
    run = Run(place, RecordingDisk(), rng)

    def look_within() -> None:
        if rng.random() < 0.6:
            return
        directory = run.empty_directory()
        run.disk.write_image(directory, run.chances(1)[2], SECTOR_BYTES)
        image = RecordingDisk(directory)
        image.named = {path.name: Platter(path.read_bytes()) for path in directory.iterdir()}
        image.sure_names = dict(image.named)

        def power_goes() -> None:
            for chance in run.chances(1):
                again = run.empty_directory()
                image.write_image(again, chance, PAGE_BYTES)
                run.judge(again, run.acknowledged)

        image.before = power_goes
        run.judge(directory, run.acknowledged, image)
        image.before = lambda: None

    run.looks_at_all = look_within
    run.random_batches(8)
    assert run.verdicts == []
    assert run.images_count > 100


def recovered_then_power_lost(run: Run, disk_of: Callable[[RecordingDisk], RecordingDisk]) -> None:
    """All processes die, a start recovers what the system still holds and counts it as durable, then the power goes."""
    directory = run.empty_directory()
    disk = disk_of(run.disk.survivor(directory))
    found = run.judge(directory, run.acknowledged, disk)
    assert found is not None, run.verdicts
    for chance in run.chances(1):
        image = run.empty_directory()
        disk.write_image(image, chance, PAGE_BYTES)
        run.judge(image, found.last)


def test_what_a_recovery_counts_as_durable_survives_a_power_loss(place: Path, rng: np.random.Generator) -> None:
    run = Run(place, RecordingDisk(), rng)
    run.looks_at_all = lambda: recovered_then_power_lost(run, lambda disk: disk)
    run.random_batches(10)
    assert run.verdicts == []
    assert run.images_count > 150


class NoFlush(RecordingDisk):
    """fdatasync returns at once and makes nothing sure."""

    def fdatasync(self, descriptor: int) -> None:
        self._effect()


class NoNewFileFlush(RecordingDisk):
    """A new file's content is not flushed before it gets its name."""

    def fsync(self, descriptor: int) -> None:
        self._effect()


class NoNameFlush(RecordingDisk):
    """A new file's name is not flushed."""

    def fsync_directory(self, path: Path) -> None:
        self._effect()


class EarlyFlush(RecordingDisk):
    """The flush takes what was there before the last write: a writer that flushes first and writes then."""

    def fdatasync(self, descriptor: int) -> None:
        self._effect()
        platter = self._opened[descriptor]
        late = platter.unsure.pop() if platter.unsure else None
        platter.flush()
        if late is not None:
            platter.unsure.append(late)


@pytest.mark.parametrize("disk", [NoFlush(), NoNewFileFlush(), NoNameFlush(), EarlyFlush()], ids=lambda disk: type(disk).__name__)
def test_the_judge_finds_a_missing_flush(place: Path, rng: np.random.Generator, disk: RecordingDisk) -> None:
    run = Run(place, disk, rng)
    run.random_batches(6)
    losses = [verdict for verdict in run.verdicts if verdict.startswith(("lost: ", "refused: "))]
    assert losses, "a journal that does not flush loses acknowledged events, and this test must see it"
    if isinstance(disk, NoFlush | EarlyFlush):
        assert any(verdict.startswith("lost: ") for verdict in losses)


def test_the_judge_finds_a_recovery_that_does_not_flush(place: Path, rng: np.random.Generator) -> None:
    run = Run(place, RecordingDisk(), rng)

    def without_flush(disk: RecordingDisk) -> RecordingDisk:
        lazy = NoFlush(disk.directory)
        lazy.named, lazy.sure_names = disk.named, disk.sure_names
        return lazy

    run.looks_at_all = lambda: recovered_then_power_lost(run, without_flush)
    run.random_batches(6)
    assert any(verdict.startswith("lost: ") for verdict in run.verdicts)


def test_restart_while_a_new_file_has_no_durable_name(place: Path) -> None:
    """A killed writer left a renamed file; the next one uses it, so it must flush the directory first."""
    disk = RecordingDisk()
    directory = place / "journal"

    def writer() -> JournalWriter:
        return JournalWriter(directory, 0, wall_ns=lambda: CREATED_NS, records=RECORDS, instance="test", disk=disk)

    first = writer()
    first.prepare_next()
    disk.before = lambda: raise_if(len(disk.named) != len(disk.sure_names) and all(name.endswith("events") for name in disk.named))
    with pytest.raises(KeyboardInterrupt):
        first.prepare_next()
    assert len(disk.sure_names) == 1, "the second file is there, its name is not sure"
    disk.before = lambda: None
    assert writer().append(sealed(1, [1] * 40), 1, 40) == 40
    image = place / "image"
    image.mkdir()
    disk.write_image(image, nothing, PAGE_BYTES)
    assert recover(image).last == 40


def raise_if(condition: bool) -> None:
    if condition:
        raise KeyboardInterrupt


def test_writes_that_fail_and_are_repeated(place: Path, rng: np.random.Generator) -> None:
    """The disk takes parts of writes and refuses others; what was acknowledged is there all the same."""

    class PartialDisk(RecordingDisk):
        def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
            if rng.random() < 0.2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().pwrite(descriptor, data[: int(rng.integers(len(data) // 2, len(data)) + 1)], offset)

    run = Run(place, PartialDisk(), rng)
    run.looks_at_all = lambda: run.look() if rng.random() < 0.15 else None
    run.random_batches(8)
    assert run.verdicts == []
    assert run.acknowledged == run.ends[-1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_image_loses_what_was_acknowledged_for_long(place: Path, rng: np.random.Generator) -> None:
    for turn in range(20):
        (place / f"turn-{turn}").mkdir()
        run = Run(place / f"turn-{turn}", RecordingDisk(), rng)
        run.random_batches(30)
        assert run.verdicts == []
