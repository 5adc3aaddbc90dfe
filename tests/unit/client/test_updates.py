"""The conflated stream: every change, at its latest, also after a lap."""

from __future__ import annotations

import threading
import time

import pytest

from pks.client import UnknownName
from tests.unit.client.small_host import SIZES


def keys(found) -> list[tuple[str, str, int]]:
    return [(position.book, position.instrument, int(position.quantity)) for position in found]


def test_a_change_comes_once_at_its_latest(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 1)
    stream = host.updates()
    assert stream.poll() == []
    small.put("ALPHA", "SBER.MOEX", 2)
    small.put("BETA", "SBER.MOEX", 9)
    small.put("ALPHA", "SBER.MOEX", 3)
    assert keys(stream.poll()) == [("BETA", "SBER.MOEX", 9), ("ALPHA", "SBER.MOEX", 3)]
    assert stream.poll() == []
    assert stream.laps_count == 0


def test_the_state_at_the_start_on_wish(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 1)
    small.put("BETA", "GAZP.MOEX", 2)
    assert keys(host.updates(timeout=0, initial=True)) == [("ALPHA", "SBER.MOEX", 1), ("BETA", "GAZP.MOEX", 2)]
    assert keys(host.updates(timeout=0)) == []


def test_one_book(small, host) -> None:
    stream = host.updates(book="BETA", timeout=0)
    small.put("ALPHA", "SBER.MOEX", 2)
    small.put("BETA", "SBER.MOEX", 9)
    assert keys(stream) == [("BETA", "SBER.MOEX", 9)]
    with pytest.raises(UnknownName):
        host.updates(book="GAMMA")


def test_after_a_lap_every_changed_position_comes_once(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 1)
    small.put("ALPHA", "GAZP.MOEX", 1)
    stream = host.updates()
    small.put("ALPHA", "GAZP.MOEX", 5)
    for quantity in range(3 * SIZES.updates):
        small.put("BETA", "SBER.MOEX", quantity)
        small.put("ALPHA", "OFZ26238", quantity)
    last = 3 * SIZES.updates - 1
    assert keys(stream.poll()) == [("ALPHA", "GAZP.MOEX", 5), ("BETA", "SBER.MOEX", last), ("ALPHA", "OFZ26238", last)]
    assert stream.laps_count == 2
    assert stream.poll() == []
    small.put("ALPHA", "SBER.MOEX", 3)
    assert keys(stream.poll()) == [("ALPHA", "SBER.MOEX", 3)]


def test_it_waits_for_the_next_change(small, host) -> None:
    stream = host.updates(timeout=20)
    timer = threading.Timer(0.05, lambda: small.put("ALPHA", "SBER.MOEX", 4))
    timer.start()
    assert keys([next(stream)]) == [("ALPHA", "SBER.MOEX", 4)]
    timer.join()


def test_it_ends_after_its_time_out(host) -> None:
    started = time.monotonic()
    assert list(host.updates(timeout=0.05)) == []
    assert time.monotonic() - started >= 0.05


def test_stop_ends_a_waiting_iteration(host) -> None:
    stream = host.updates()
    threading.Timer(0.05, stream.stop).start()
    assert list(stream) == []
    assert list(stream) == []


def test_two_streams_do_not_share_what_they_saw(small, host) -> None:
    first, second = host.updates(), host.updates()
    small.put("ALPHA", "SBER.MOEX", 4)
    assert keys(first.poll()) == keys(second.poll()) == [("ALPHA", "SBER.MOEX", 4)]


def test_a_part_at_a_time_and_the_rest_at_its_latest(small, host) -> None:
    stream = host.updates()
    assert stream.is_quiet
    rows = [small.put("ALPHA", "SBER.MOEX", 1), small.put("ALPHA", "GAZP.MOEX", 1), small.put("BETA", "SBER.MOEX", 1)]
    assert not stream.is_quiet
    first, records = stream.poll_records(1)
    assert (len(first), stream.waiting_count, stream.is_quiet) == (1, 2, False)
    assert records["qty_raw"].tolist() == [1]
    for row, key in zip(rows, (("ALPHA", "SBER.MOEX"), ("ALPHA", "GAZP.MOEX"), ("BETA", "SBER.MOEX")), strict=True):
        if row != first[0]:
            small.put(*key, 2)
    rest, records = stream.poll_records(10)
    assert sorted([*first.tolist(), *rest.tolist()]) == sorted(rows) and records["qty_raw"].tolist() == [2, 2]
    assert stream.is_quiet and stream.waiting_count == 0
    assert len(stream.poll_records(10)[0]) == 0
