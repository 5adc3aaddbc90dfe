"""Alerts on the health screen: the latest ones, from their file."""

from __future__ import annotations

from pathlib import Path

from pks.edges.chat.alerts import Alert, AlertClass, Delivery
from pks.edges.chat.keep import AlertFile
from pks.tui.health import ALERTS_SHOWN, AlertLine, Health, read_alerts
from pks.tui.screens import alerts_table


def test_the_latest_alerts_are_shown_and_none_where_there_are_none(tmp_path: Path) -> None:
    assert read_alerts(None) == []
    assert read_alerts(tmp_path) == []
    run = tmp_path / "run"
    run.mkdir()
    AlertFile(run).put(
        [
            Alert(
                alert_class=AlertClass.EDGE_DOWN, severity="WARNING", window_start_ns=number * 10**9, count=number, text=f"number {number}",
                channels=[], state=Delivery.MUTED,
            )
            for number in range(1, 10)
        ]
    )  # fmt: skip
    lines = read_alerts(tmp_path)
    assert len(lines) == ALERTS_SHOWN
    assert lines[0] == AlertLine("edge down", "WARNING", "1970-01-01T00:00:09Z", 9, "number 9", "MUTED")
    table = alerts_table(Health("READY", [], [], [], [], "none", lines))
    assert table.row_count == ALERTS_SHOWN
