"""A producer that cannot attach leaves no ring claimed: who tries again while the system starts is let in when it is ready."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pks import topology
from pks.base.config import Config
from pks.client.producer import Producer
from pks.segments.errors import SegmentNotReady
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
