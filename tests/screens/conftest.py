"""A small live system, and the blotter on it with clocks that stand still."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from pks.base.clock import ManualClock
from pks.tui.app import Blotter
from pks.tui.detail import LotLine, TradeLine
from pks.tui.feed import Feed
from tests.screens.blotter_host import MONOTONIC_NS, NOW_NS, BlotterHost


class DeskDetail:
    """Answers as the journal would give them; `asked` says for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def lots(self, book: str, instrument: str) -> Sequence[LotLine]:
        self.asked.append(("lots", book, instrument))
        return [
            LotLine("L-1", "2025-03-10", Decimal(10_000), Decimal("312.5"), Decimal("3125000"), 3),
            LotLine("T0001/2", "2025-03-14", Decimal(2_000), None, Decimal("632800"), 9),
        ]

    def trades(self, book: str, instrument: str) -> Sequence[TradeLine]:
        self.asked.append(("trades", book, instrument))
        return [
            TradeLine(
                9, "2025-03-14T10:05:11Z", "TRADE", "BUY", Decimal(2_000), Decimal("316.4"), "379.68 RUB", "NSD-RU-01",
                "T0001", "BOOKED",
            ),
            TradeLine(
                3, "2025-03-10T18:45:00Z", "OPENING", "BUY", Decimal(10_000), Decimal("312.5"), "", "NSD-RU-01", "L-1", "AMENDED",
            ),
        ]  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[BlotterHost]:
    desk = BlotterHost(tmp_path / "data", f"screen{os.getpid()}")
    try:
        desk.fill_desk()
        yield desk
    finally:
        desk.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS, MONOTONIC_NS)


@pytest.fixture
def detail() -> DeskDetail:
    return DeskDetail()


@pytest.fixture
def make_blotter(desk: BlotterHost, clock: ManualClock, detail: DeskDetail, tmp_path: Path) -> Callable[[], Blotter]:
    """A blotter whose beat the test gives; settings are kept in the test's folder, and the name on the screen is always the same."""

    def make() -> Blotter:
        return Blotter(Feed(desk.instance, None, clock), detail, tmp_path / "config" / "tui.json", redraw=False)

    return make
