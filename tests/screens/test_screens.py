"""The blotter's screens as they were last looked at and found good: `pytest tests/screens --snapshot-update` takes new ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from pks.tui.app import Blotter
from tests.screens.blotter_host import MONOTONIC_NS, BlotterHost

SIZE = (150, 40)

Compare = Callable[..., bool]
Make = Callable[[], Blotter]


@pytest.fixture
def blotter(make_blotter: Make) -> Blotter:
    app = make_blotter()
    app.feed.label = "demo"
    return app


def test_positions(snap_compare: Compare, blotter: Blotter) -> None:
    assert snap_compare(blotter, terminal_size=SIZE)


def test_positions_on_a_small_terminal(snap_compare: Compare, blotter: Blotter) -> None:
    assert snap_compare(blotter, terminal_size=(80, 24))


def test_positions_filtered_and_ordered(snap_compare: Compare, blotter: Blotter) -> None:
    keys = ["s", "s", "S", "slash", *"ru-", "space", *"qty!=0", "enter"]
    assert snap_compare(blotter, press=keys, terminal_size=SIZE)


def test_the_filter_line_says_what_is_wrong(snap_compare: Compare, blotter: Blotter) -> None:
    assert snap_compare(blotter, press=["slash", *"qty>x"], terminal_size=SIZE)


def test_a_flash_of_what_changed(snap_compare: Compare, blotter: Blotter, desk: BlotterHost) -> None:
    async def change(pilot: Pilot[None]) -> None:
        await pilot.pause()
        desk.put("RU-EQ", "SBER.MOEX", 12_500, 31_642, realised=1_250_075, fee=39_968)
        desk.put("CR-PERP", "BTC-PERP", 140_000, 832_505, realised=120_000, fee=1_999)
        desk.done(desk.host.events.head, durable=desk.host.events.head - 1)
        blotter.beat()

    assert snap_compare(blotter, terminal_size=SIZE, run_before=change)


def test_lots_and_trades(snap_compare: Compare, blotter: Blotter) -> None:
    async def open_position(pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", "down", "down", "enter")
        await blotter.workers.wait_for_complete()
        await pilot.pause()

    assert snap_compare(blotter, terminal_size=SIZE, run_before=open_position)


def test_columns(snap_compare: Compare, blotter: Blotter) -> None:
    assert snap_compare(blotter, press=["c", "down", "space"], terminal_size=SIZE)


def test_health(snap_compare: Compare, blotter: Blotter, desk: BlotterHost) -> None:
    control = desk.host.control
    for number in range(len(desk.plans)):
        control.report(number).write(heartbeat_ns=MONOTONIC_NS - 40_000_000, cursor=7, work_count=7)
    capture, journal = control.owner(0), control.owner(1)
    for value in range(1_000, 200_000, 1_000):
        capture.histogram("admit_ns").record(value)
        journal.histogram("flush_ns").record(value * 100)
    capture.counter("events_accepted").add(7)
    journal.gauge("free_bytes").set(1 << 33)
    desk.done(7, durable=4)
    assert snap_compare(blotter, press=["h"], terminal_size=(150, 60))


def test_help(snap_compare: Compare, blotter: Blotter) -> None:
    assert snap_compare(blotter, press=["question_mark"], terminal_size=SIZE)


def test_the_system_is_gone(snap_compare: Compare, blotter: Blotter, desk: BlotterHost) -> None:
    async def stop(pilot: Pilot[None]) -> None:
        await pilot.pause()
        desk.hang()
        blotter.feed.poll()
        blotter.feed.reason = "segment /pks-positions-v1: heartbeat too old, last heartbeat 3600.000 s ago"  # its age is a real clock's
        blotter._show_banner()
        blotter.beat()

    assert snap_compare(blotter, terminal_size=SIZE, run_before=stop)
