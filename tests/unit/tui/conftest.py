"""A small live system with a desk, and the blotter's board of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pks.base.clock import ManualClock
from pks.tui.board import Board
from pks.tui.feed import Feed, FeedState
from tests.screens.blotter_host import MONOTONIC_NS, NOW_NS, BlotterHost


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[BlotterHost]:
    desk = BlotterHost(tmp_path / "data", f"tui{os.getpid()}")
    try:
        desk.fill_desk()
        yield desk
    finally:
        desk.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS, MONOTONIC_NS)


@pytest.fixture
def feed(desk: BlotterHost, clock: ManualClock) -> Feed:
    feed = Feed(desk.instance, None, clock)
    feed.poll()
    assert feed.state == FeedState.LIVE
    return feed


@pytest.fixture
def board(feed: Feed) -> Board:
    assert feed.board is not None
    return feed.board
