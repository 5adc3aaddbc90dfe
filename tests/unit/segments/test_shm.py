"""Segments: what is refused, what is stale, what outlives what."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import stat
import time
from pathlib import Path

import numpy as np
import posix_ipc
import pytest

from pks.base.limits import HEARTBEAT_STALE_NS
from pks.layouts.segment import SEGMENT_HEADER_BYTES, SEGMENT_STATE_MOVES, SegmentState
from pks.segments import shm
from pks.segments.errors import (
    LayoutUnknown,
    NotASegment,
    SegmentExists,
    SegmentMissing,
    SegmentNoSpace,
    SegmentNotReady,
    StaleHost,
)
from pks.segments.shm import Segment, list_segments, retire, segment_name

FACTS = {"layout_name": "scratch", "layout_version": 1, "layout_hash": 0xDEADBEEF12345678}


def test_names() -> None:
    assert segment_name("pks-positions-v1") == "/pks-positions-v1"
    assert segment_name("pks-positions-v1", "x") == "/pks-positions-v1.x"


def test_what_one_writes_the_other_reads(make_segment) -> None:
    segment = make_segment(4096, counts=(3, 5), epoch=7)
    segment.body[:3] = 1, 2, 3
    reader = Segment.open(segment.name, **FACTS)
    assert reader.body[:4].tolist() == [1, 2, 3, 0]
    assert reader.counts[:3] == (3, 5, 0)
    facts = reader.facts()
    assert (facts.layout_name, facts.layout_hash, facts.epoch, facts.creator_pid) == ("scratch", 0xDEADBEEF12345678, 7, os.getpid())
    with pytest.raises(ValueError, match="read-only"):
        reader.body[0] = 1


def test_mode_is_exact_whatever_the_umask(make_segment) -> None:
    before = os.umask(0o077)
    try:
        segment = make_segment(4096, group=os.getgid())
    finally:
        os.umask(before)
    facts = (shm.SHM_DIRECTORY / segment.name.strip("/")).stat()
    assert (stat.S_IMODE(facts.st_mode), facts.st_gid) == (0o640, os.getgid())


@pytest.mark.parametrize("wrong", [{"layout_name": "other"}, {"layout_version": 2}, {"layout_hash": 1}])
def test_an_unknown_layout_is_refused(make_segment, wrong) -> None:
    segment = make_segment(4096)
    with pytest.raises(LayoutUnknown) as caught:
        Segment.open(segment.name, **{**FACTS, **wrong})
    assert caught.value.known == next(iter(wrong.values()))


def test_an_unknown_header_version_is_refused(make_segment) -> None:
    segment = make_segment(4096)
    segment.header[1] = 2
    with pytest.raises(LayoutUnknown, match="header version"):
        Segment.open(segment.name)


def test_second_creation_and_missing(make_segment, instance) -> None:
    segment = make_segment(4096)
    with pytest.raises(SegmentExists):
        Segment.create(segment.name, body_bytes=8, **FACTS)
    with pytest.raises(SegmentMissing):
        Segment.open(segment_name("pks-none-v1", instance))


def test_not_ours_and_not_ready(instance) -> None:
    name = segment_name("pks-foreign-v1", instance)
    memory = posix_ipc.SharedMemory(name, flags=posix_ipc.O_CREX)
    try:
        with pytest.raises(SegmentNotReady):
            Segment.open(name)
        os.ftruncate(memory.fd, 2 * SEGMENT_HEADER_BYTES)
        with pytest.raises(SegmentNotReady):
            Segment.open(name)
        os.pwrite(memory.fd, b"somebody", 0)
        with pytest.raises(NotASegment):
            Segment.open(name)
        assert list_segments(instance) == []
    finally:
        memory.close_fd()
        assert retire(name)
    assert not retire(name)


def test_creating_is_for_writers_only(instance) -> None:
    name = segment_name("pks-creating-v1", instance)
    segment = Segment.create(name, body_bytes=64, **FACTS)
    try:
        with pytest.raises(SegmentNotReady):
            Segment.open(name)
        assert Segment.open(name, writable=True, creating=True).state == SegmentState.CREATING
        segment.go_live()
        assert Segment.open(name).state == SegmentState.LIVE
    finally:
        retire(name)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SegmentState, SegmentState)))
def test_every_move_of_the_state(make_segment, before, after) -> None:
    segment = make_segment(64)
    segment.header[shm._STATE] = before
    if after in SEGMENT_STATE_MOVES[before]:
        segment._move(after)
        assert segment.state == after
    else:
        with pytest.raises(AssertionError):
            segment._move(after)


def test_a_full_shm_is_a_named_error_and_leaves_nothing(instance, monkeypatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = segment_name("pks-large-v1", instance)
    free = os.statvfs("/dev/shm")
    with pytest.raises(SegmentNoSpace) as caught:
        Segment.create(name, body_bytes=free.f_blocks * free.f_frsize + 4096, **FACTS)
    assert caught.value.wanted_bytes > caught.value.free_bytes
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SegmentNoSpace):
        Segment.create(name, body_bytes=4096, **FACTS)
    with pytest.raises(SegmentMissing):
        Segment.open(name)


def test_stale_by_age_and_by_state(make_segment) -> None:
    segment = make_segment(64)
    reader = Segment.open(segment.name)
    now = time.monotonic_ns()
    segment.beat(now)
    reader.check_live(now + HEARTBEAT_STALE_NS)
    with pytest.raises(StaleHost, match="heartbeat"):
        reader.check_live(now + HEARTBEAT_STALE_NS + 1)
    assert retire(segment.name)
    with pytest.raises(StaleHost, match="CLOSED"):
        reader.check_live(now)
    segment.mark_closed()
    with pytest.raises(SegmentMissing):
        Segment.open(segment.name)


def test_a_closed_segment_is_not_opened(make_segment) -> None:
    segment = make_segment(64)
    segment.mark_closed()
    with pytest.raises(StaleHost):
        Segment.open(segment.name)


def test_views_outlive_the_segment_object(make_segment) -> None:
    segment = make_segment(4096)
    part = segment.words(64, 128)
    part[:] = 9
    segment.close()
    del segment
    gc.collect()
    assert part.sum() == 9 * 16


def test_parts_stay_inside_the_body(make_segment) -> None:
    segment = make_segment(128)
    assert len(segment.words(64, 64)) == 8
    with pytest.raises(AssertionError):
        segment.words(64, 128)


def test_a_forked_child_shares_the_mapping(make_segment) -> None:
    segment = make_segment(64)
    pid = os.fork()
    if pid == 0:
        segment.body[3] = 77
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert segment.body[3] == 77


def test_listing_names_one_instance_only(make_segment, instance) -> None:
    make_segment(64, "pks-b-v1")
    make_segment(128, "md-a-v1")
    (shm.SHM_DIRECTORY / f"pks-stray.{instance}").write_bytes(b"short")
    try:
        assert [(Path(facts.name).name, facts.body_bytes) for facts in list_segments(instance)] == [
            (f"md-a-v1.{instance}", 128),
            (f"pks-b-v1.{instance}", 64),
        ]
        assert list_segments(instance + "other") == []
    finally:
        (shm.SHM_DIRECTORY / f"pks-stray.{instance}").unlink()


def test_kernel_codes(make_segment) -> None:
    segment = make_segment(64)
    segment.beat(1000)
    assert shm.host_state(segment.header, 1000) == 0
    assert shm.host_state(segment.header, 1001 + HEARTBEAT_STALE_NS) == 2
    segment.mark_closed()
    assert shm.host_state(segment.header, np.int64(1000)) == 1
