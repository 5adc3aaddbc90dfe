"""A producer that cannot attach leaves no ring claimed: who tries again while the system starts is let in when it is ready."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pks import topology
from pks.base.config import Config
from pks.base.limits import BOOKING_STALE_NS
from pks.client.producer import Producer, SystemGone
from pks.layouts.segment import SEGMENT_HEADER
from pks.segments.errors import SegmentNotReady, StaleHost
from tests.unit.client.small_host import HOUR_NS, SIZES, SmallHost


def test_claims_are_given_back_while_the_system_starts(tmp_path: Path) -> None:
    instance = f"starts{os.getpid()}"
    topology.retire_all(instance)
    config = Config(data_dir=str(tmp_path), instance=instance, shards=1)
    host = topology.Host.create(config, SIZES, topology.workers_of(1), topology.Starts())
    try:
        host.beat(time.monotonic_ns() + HOUR_NS)
        for _ in range(2 * host.sources):
            with pytest.raises(SegmentNotReady):
                Producer.open(instance, tmp_path)
        host.go_live()
        host.beat(time.monotonic_ns() + HOUR_NS)
        with Producer.open(instance, tmp_path) as producer:
            assert producer.number == 1
    finally:
        host.close_all()
        topology.retire_all(instance)


def test_a_claimed_ring_is_not_given_twice(small: SmallHost, tmp_path: Path) -> None:
    with Producer.open(small.instance, tmp_path) as first, Producer.open(small.instance, tmp_path) as second:
        assert (first.number, second.number) == (1, 2)
    with Producer.open(small.instance, tmp_path) as third:
        assert third.number == 1


def test_a_late_heartbeat_is_waited_for(small: SmallHost, tmp_path: Path) -> None:
    with Producer.open(small.instance, tmp_path) as producer:
        small.live(-3 * 10**9)
        with pytest.raises(StaleHost):
            producer.host.control.reports.read(0)
        producer.check_live()
        assert producer.lost_upto() == -1, "nothing is known meanwhile, and that is no error"
        late = threading.Timer(0.2, small.live)
        late.start()
        with Producer.open(small.instance, tmp_path) as second:
            assert second.number == 2
        late.join()


def test_a_host_without_a_heartbeat_for_long_is_gone(small: SmallHost, tmp_path: Path) -> None:
    with Producer.open(small.instance, tmp_path) as producer:
        small.live(-BOOKING_STALE_NS - 10**9)
        with pytest.raises(SystemGone, match="heartbeat too old, last heartbeat 11"):
            producer.check_live()
        with pytest.raises(SystemGone):
            producer.lost_upto()


def test_a_host_whose_supervisor_ended_is_gone_at_once(small: SmallHost, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with Producer.open(small.instance, tmp_path) as producer:
        small.live(-2 * 10**9)
        head = small.host.intake(producer.number).segment.header.view(SEGMENT_HEADER)[0]
        head["creator_pid"] = ended.pid
        with pytest.raises(SystemGone, match=f"its supervisor, pid {ended.pid}, is gone"):
            producer.check_live()


def test_a_closed_host_is_gone_at_once(small: SmallHost, tmp_path: Path) -> None:
    with Producer.open(small.instance, tmp_path) as producer:
        small.host.close_all()
        with pytest.raises(SystemGone, match="state CLOSED"):
            producer.check_live()
