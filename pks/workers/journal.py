"""The journal worker: events from the ring into the files, one fdatasync a batch; its cursor in the ring is the durable sequence.

The batch is whatever has arrived while the last one was being flushed. A full disk stops it, says so, and it goes on with the same
batch when there is room; a failed flush ends it, since the kernel may have dropped the pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pks.base.units import hash_words
from pks.layouts.event import EVENT_WORDS
from pks.segments.counters import counter_add, gauge_set, histogram_record
from pks.segments.journal import JournalWriter
from pks.segments.journal_errors import JournalFull
from pks.segments.journal_file import Disk
from pks.segments.journal_records import seal, stamp_batch, whole_groups
from pks.segments.ring import RingReader, ring_head
from pks.workers.runtime import Context

FULL_RETRY_NS = 100_000_000
"""How long to wait before a batch that found no room is tried again."""


class PointDisk(Disk):
    """The disk of a journal that has kill points: a batch is written in two parts, with a point between them and one before its flush."""

    def __init__(self, point: Callable[[str], None]) -> None:
        self._point = point
        self._making: set[int] = set()  # descriptors of files that have no name yet

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        (self._making.add if path.suffix == ".new" else self._making.discard)(descriptor)
        return descriptor

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        if descriptor in self._making:
            return super().pwrite(descriptor, data, offset)
        half = super().pwrite(descriptor, data[: len(data) // 2], offset)
        self._point("in_write")
        return half + super().pwrite(descriptor, data[half:], offset + half)

    def fdatasync(self, descriptor: int) -> None:
        self._point("before_flush")
        super().fdatasync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._point("before_new_file")
        super().rename(source, target)


class Journal:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ring = context.host.events
        self.reader = RingReader(self.ring, "journal")
        self.writer = JournalWriter(
            context.paths.journal,
            self.reader.cursor,
            wall_ns=context.clock.wall_ns,
            records=context.config.journal.segment_records,
            instance=context.config.instance,
            disk=PointDisk(context.point) if len(context.points.words) > 1 else None,
        )
        self.waiter = context.waiter([self.reader])
        self.capture_bell = context.bell("capture")
        self.flush_ns = context.cells.histogram("flush_ns")
        self.batch_records = context.cells.histogram("batch_records")
        self.full_count = context.cells.counter("disk_full")
        self.is_full = context.cells.gauge("disk_is_full")
        self.retry_ns = 0
        self._prepare()
        context.cursor = self.writer.durable
        context.ready()

    def step(self) -> int:
        """Make one batch durable."""
        now = self.context.clock.monotonic_ns()
        if now < self.retry_ns:
            return 0
        head = int(ring_head(self.ring.control))
        if head <= self.writer.durable:
            return 0
        first = self.writer.durable + 1
        last = self.writer.batch_last(self.ring.records, head)
        if last < first:
            return 0
        self.context.point("before_write")
        began = time.perf_counter_ns()
        try:
            self.writer.append_ring(self.ring.records, first, last)
        except JournalFull as error:
            self.retry_ns = now + FULL_RETRY_NS
            self.full_count.add()
            self.is_full.set(1)
            self.context.fail(str(error))
            self.context.log.warning("disk full: nothing is acknowledged until there is room", first=first, last=last, error=str(error))
            return 0
        self.context.point("after_flush")
        self.flush_ns.record(time.perf_counter_ns() - began)
        self.batch_records.record(last - first + 1)
        if self.retry_ns:
            self.retry_ns = 0
            self.is_full.set(0)
            self.context.fail("")
            self.context.log.info("there is room again", durable=last)
        self.reader.cursor = last
        self.reader.finish(last)
        self.context.point("after_cursor")
        self.capture_bell.ring()
        self.context.cursor, self.context.lag = last, head - last
        return last - first + 1

    def idle(self) -> None:
        """Wait for events, or for the disk."""
        if self.retry_ns:
            self.context.nap(5_000_000)
        else:
            self.waiter.wait(self.context.rest_ns())

    def housekeeping(self) -> None:
        """Make the next file ahead of need."""
        self._prepare()
        self.context.cursor, self.context.lag = self.writer.durable, int(ring_head(self.ring.control)) - self.writer.durable

    def _prepare(self) -> None:
        try:
            self.writer.prepare_next()
        except JournalFull as error:
            self.context.log.warning("no room for the next journal file", error=str(error))

    def drain(self) -> bool:
        """Everything that capture has published is durable."""
        return int(ring_head(self.ring.control)) == self.writer.durable

    def close(self) -> None:
        """Give back the files."""
        self.writer.close()


def make(context: Context) -> Journal:
    """The journal worker."""
    return Journal(context)


def warm() -> None:
    """Compile the kernels of this worker."""
    from pks.workers.warm import warm_rings

    warm_rings()
    rows = np.zeros((16, EVENT_WORDS), np.int64)
    frozen = np.zeros(16, np.int64)
    frozen.flags.writeable = False
    for words in (np.zeros(16, np.int64), frozen):
        hash_words(words, 0, 16, 1)
    cells = np.zeros(1 << 13, np.int64)
    counter_add(cells, 0, 1)
    gauge_set(cells, 0, 1)
    histogram_record(cells, 0, 1, 1)
    seal(rows, 1)
    whole_groups(rows, 15, 0, 1, 1)
    stamp_batch(rows, 15, 0, 1, 1, np.zeros((16, EVENT_WORDS), np.int64), np.zeros(1, np.int64))
