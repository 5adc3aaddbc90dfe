"""Where alerts are kept: a bounded file that is always there, and the table `back_office.alert` while Postgres is.

Owns the forms of both. Both take the same alert again and again and keep its latest state. The table is the Postgres edge's; while it is
not there, nothing is written to it, and the file has the alerts until then.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pks.edges.chat.alerts import Alert

ALERTS_MAX = 1_000
"""Alerts that the file keeps: the latest."""

FILE_BYTES_MAX = 1 << 20
"""Size at which the file is written anew with the latest state of each alert only."""

FILE_NAME = "alerts.jsonl"

UPSERT = """
insert into back_office.alert (class, severity, window_start, count, text, channels, state, sent_at, error)
values ($1, $2, timestamptz 'epoch' + $3::bigint * interval '1 microsecond', $4, $5, $6, $7,
    case when $8::bigint = 0 then null else timestamptz 'epoch' + $8::bigint * interval '1 microsecond' end, nullif($9, ''))
on conflict (class, window_start) do update set severity = excluded.severity, count = excluded.count, text = excluded.text,
    channels = excluded.channels, state = excluded.state, sent_at = excluded.sent_at, error = excluded.error
"""

COUNT_MAX = (1 << 31) - 1


class AlertKeeper(Protocol):
    """Keeps the latest state of alerts."""

    def put(self, alerts: Sequence[Alert]) -> None:
        """Keep these; an alert of the same key is replaced."""


class AlertFile:
    """JSON lines, the last line of a key counts. One writer."""

    def __init__(self, folder: Path) -> None:
        """folder: of the run."""
        self.path = folder / FILE_NAME

    def put(self, alerts: Sequence[Alert]) -> None:
        """As the port says. Raises OSError when the disk is full."""
        lines = b"".join(msgspec.json.encode(alert) + b"\n" for alert in alerts)
        if self.path.exists() and self.path.stat().st_size + len(lines) > FILE_BYTES_MAX:
            self._compact()
        with self.path.open("ab") as file:
            file.write(lines)

    def read(self, last: int = ALERTS_MAX) -> list[Alert]:
        """The latest `last` alerts, the newest first. Any process may ask."""
        if not self.path.exists():
            return []
        decode = msgspec.json.Decoder(Alert).decode
        found: dict[tuple[str, int], Alert] = {}
        for line in self.path.read_bytes().splitlines():
            try:
                alert = decode(line)
            except msgspec.DecodeError:
                continue  # half a line: the disk was full, or it is being written
            found[alert.key] = alert
        return sorted(found.values(), key=lambda alert: (-alert.window_start_ns, alert.alert_class))[:last]

    def _compact(self) -> None:
        kept = self.read()[: ALERTS_MAX // 2]
        making = self.path.with_name(FILE_NAME + ".making")
        making.write_bytes(b"".join(msgspec.json.encode(alert) + b"\n" for alert in reversed(kept)))
        os.replace(making, self.path)


async def put_rows(connection: Any, alerts: Sequence[Alert]) -> bool:
    """Keep alerts in `back_office.alert`; False while there is no such table. Raises what asyncpg raises."""
    if await connection.fetchval("select to_regclass('back_office.alert')") is None:
        return False
    await connection.executemany(
        UPSERT,
        [
            (
                alert.alert_class.value, alert.severity, alert.window_start_ns // 1000, min(alert.count, COUNT_MAX), alert.text,
                alert.channels, alert.state.value, alert.sent_ns // 1000, alert.error,
            )
            for alert in alerts
        ],
    )  # fmt: skip
    return True
