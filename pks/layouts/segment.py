"""Layouts of the segments themselves: header page, directory of a ring, headers of stream and journal files, control tables.

Owned by `segments`; a reader in another language needs HEADER and RING_PLACE besides the slot it is after. Words that a process polls
or writes on its hot path stand 128 bytes apart from those of other processes.
"""

from __future__ import annotations

import enum

import numpy as np

from pks.base.limits import INSTANCE_CHARACTERS_MAX

SEGMENT_MAGIC = 0x314745532D534B50  # "PKS-SEG1", little endian
SEGMENT_HEADER_VERSION = 1
SEGMENT_HEADER_BYTES = 4096
STREAM_MAGIC = 0x3152545353534B50  # "PKSSSTR1", little endian
STREAM_HEADER_BYTES = 4096
JOURNAL_MAGIC = 0x314C4E524A534B50  # "PKSJRNL1", little endian
JOURNAL_HEADER_VERSION = 1
JOURNAL_HEADER_BYTES = 4096


class SegmentState(enum.IntEnum):
    """Life of a segment; stored in its header."""

    CREATING = 0  # memory is there, content is not
    LIVE = 1
    CLOSED = 2  # its program stopped, or a later start put it aside


SEGMENT_STATE_MOVES = {
    SegmentState.CREATING: {SegmentState.LIVE, SegmentState.CLOSED},
    SegmentState.LIVE: {SegmentState.CLOSED},
    SegmentState.CLOSED: set[SegmentState](),
}
assert SEGMENT_STATE_MOVES.keys() == set(SegmentState), "every state has its moves"

SEGMENT_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("header_version", "<i8"),
        ("layout_name", "S32"),
        ("layout_version", "<i8"),
        ("layout_hash", "<u8"),
        ("body_bytes", "<i8"),  # after the header page
        ("creator_pid", "<i8"),
        ("epoch", "<i8"),
        ("created_ns", "<i8"),  # CLOCK_MONOTONIC
        ("_line_0", "<u8", (4,)),
        ("state", "<i8"),  # SegmentState
        ("_line_1", "<u8", (15,)),
        ("heartbeat_ns", "<i8"),  # CLOCK_MONOTONIC, one clock for all processes of the host
        ("_line_2", "<u8", (15,)),
        ("counts", "<i8", (16,)),  # sizes that the layout needs to find its parts; fixed at creation
        ("_reserved", "<u8", (448,)),
    ]
)
assert SEGMENT_HEADER.itemsize == SEGMENT_HEADER_BYTES, "one page"


def header_word(field: str) -> int:
    """Place of a header field, counted in 64-bit words."""
    fields = SEGMENT_HEADER.fields
    assert fields is not None
    return int(fields[field][1]) // 8


assert header_word("state") == 16, "the state has a line of its own"
assert header_word("heartbeat_ns") == 32, "the heartbeat has a line of its own"

RING_PLACE = np.dtype([("name", "S32"), ("gating", "<i8"), ("semaphore", "<i8"), ("_reserved", "<u8", (2,))])
"""One reader's place in a ring: whom it is for, whether it was made to hold the writer back, semaphore number + 1 or 0."""
assert RING_PLACE.itemsize == 64, "one line a place"

STREAM_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("layout_name", "S32"),
        ("layout_version", "<i8"),
        ("layout_hash", "<u8"),
        ("record_bytes", "<i8"),
        ("_reserved", "<u8", (504,)),
    ]
)
assert STREAM_HEADER.itemsize == STREAM_HEADER_BYTES, "one page, so that record n lies at 4096 + n * record_bytes"


JOURNAL_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("header_version", "<i8"),
        ("layout_version", "<i8"),
        ("layout_hash", "<u8"),  # of EVENT and DETAIL
        ("first_sequence", "<i8"),  # of the file's first place; 0 in the first file
        ("records", "<i8"),  # places in this file and in every file of the journal
        ("created_ns", "<i8"),  # UTC
        ("instance", "S64"),  # of the program that made it
        ("_reserved", "<u8", (496,)),
        ("checksum", "<u8"),  # of every byte before it
    ]
)
assert JOURNAL_HEADER.itemsize == JOURNAL_HEADER_BYTES, "one page, so that records can be mapped behind it"
assert INSTANCE_CHARACTERS_MAX <= 64, "an instance's name fits the header"


class CellKind(enum.IntEnum):
    """What a metric cell holds."""

    UNUSED = 0
    COUNTER = 1  # grows only
    GAUGE = 2  # latest value
    HISTOGRAM = 3  # nanoseconds


CELL_NAME = np.dtype([("name", "S48"), ("kind", "<i8"), ("place", "<i8")])
"""Directory entry of a metric: its kind is written last; `place` counts words (counter, gauge) or histograms of the owner."""
assert CELL_NAME.itemsize == 64, "one line an entry"


class WorkerState(enum.IntEnum):
    """Life of a worker as the supervisor sees it."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    STOPPING = 3
    STOPPED = 4
    DEAD = 5  # ended without being asked to
    HUNG = 6  # heartbeat too old
    HELD = 7  # restarted too often, left down


WORKER_STATE_MOVES = {
    WorkerState.ABSENT: {WorkerState.STARTING},
    WorkerState.STARTING: {WorkerState.READY, WorkerState.STOPPING, WorkerState.STOPPED, WorkerState.DEAD, WorkerState.HUNG},
    WorkerState.READY: {WorkerState.STOPPING, WorkerState.STOPPED, WorkerState.DEAD, WorkerState.HUNG},
    WorkerState.STOPPING: {WorkerState.STOPPED, WorkerState.DEAD, WorkerState.HUNG},
    WorkerState.STOPPED: {WorkerState.STARTING},  # asked to stop alone, and started again
    WorkerState.DEAD: {WorkerState.STARTING, WorkerState.HELD},
    WorkerState.HUNG: {WorkerState.DEAD},  # killed
    WorkerState.HELD: {WorkerState.STARTING},  # by hand
}
assert WORKER_STATE_MOVES.keys() == set(WorkerState), "every state has its moves"

WORKER_REPORT = np.dtype(
    [
        ("version", "<i8"),
        ("pid", "<i8"),
        ("heartbeat_ns", "<i8"),  # CLOCK_MONOTONIC
        ("started_ns", "<i8"),  # CLOCK_MONOTONIC
        ("ready", "<i8"),  # 1 once it has caught up
        ("cursor", "<i8"),  # last sequence that it finished
        ("lag", "<i8"),  # records that wait for it
        ("work_count", "<i8"),  # records since its start
        ("last_error", "S128"),  # utf-8, "" is none
        ("_reserved", "<u8", (8,)),
    ]
)
"""What a worker says of itself; it is the row's only writer."""
assert WORKER_REPORT.itemsize == 256, "four lines a copy"

WORKER_WATCH = np.dtype(
    [
        ("version", "<i8"),
        ("name", "S32"),
        ("pid", "<i8"),
        ("state", "<i8"),  # WorkerState
        ("restarts_count", "<i8"),
        ("core", "<i8"),  # processor it is pinned to, -1 is none
        ("since_ns", "<i8"),  # CLOCK_MONOTONIC of the last change of state
        ("exit_code", "<i8"),  # of the last end; minus the signal's number when one ended it
        ("last_error", "S128"),
        ("_reserved", "<u8", (5,)),
    ]
)
"""What the supervisor says of a worker; the supervisor is the row's only writer."""
assert WORKER_WATCH.itemsize == 256, "four lines a copy"
