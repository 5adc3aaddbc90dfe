"""What the gateway's hub tells of a whole running system: positions as its slots have them, trades as its journal does, across a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pks.base.clock import SystemClock
from pks.bff.frames import TRADE_KINDS
from pks.bff.hub import Hub
from pks.bff.live import Live
from pks.layouts.codes import Flag
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.history import known_at
from tests.conftest import wait_until
from tests.crash.system import SECONDS, Feeder, LiveDay, System, a_system, quiesce
from tests.unit.bff.streams import Listener


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    yield from a_system(tmp_path, "streams", shards="2")


class Watching:
    """A hub of this process over the system, and one client with both topics."""

    def __init__(self, system: System) -> None:
        opened = lambda: Host.open(system.instance, system.data_dir)  # noqa: E731
        self.live = Live(system.instance, opened())
        self.hub = Hub(self.live, SystemClock(), opened)
        self.listener = Listener()
        self.listener.client = self.hub.join("ann", self.listener.wire)
        self.hub.subscribe(self.listener.client, ["blotter"], None, None)

    def look(self) -> None:
        self.hub.turn()
        self.listener.read()

    def until(self, condition: Any, what: str) -> None:
        def met() -> bool:
            self.look()
            return bool(condition())

        wait_until(met, SECONDS, what)

    def shows_the_host(self) -> bool:
        host = self.live.host.positions.to_dicts()
        return self.listener.positions == {(one["book"], one["instrument"]): json.loads(json.dumps(one)) for one in host}


def test_a_day_is_told_as_it_was_booked(system: System, seed: int) -> None:
    system.start()
    watching = Watching(system)
    watching.until(lambda: "snapshot" in watching.listener.types(), "the snapshot")
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    for step in range(400):
        day.step()
        if step == 200:
            system.kill("accumulator-0")
        if step % 5 == 0:
            watching.look()
    last = quiesce(system, feeder)
    watching.until(lambda: watching.hub.sight.durable >= last and watching.shows_the_host(), "all that was booked")
    watching.until(lambda: not watching.hub.turn(), "rest")
    records = JournalView(system.paths.journal).records[1 : last + 1]
    kinds = [int(kind) for kind in TRADE_KINDS]
    booked = [int(event["sequence"]) for event in records if event["kind"] in kinds and not event["flags"] & Flag.REENTRY]
    told = {trade["sequence"]: trade for trade in watching.listener.trades}
    assert list(told) == [trade["sequence"] for trade in watching.listener.trades] == sorted(told), "in order, none twice"
    assert list(told) == booked, "none is missing"
    state = known_at(JournalView(system.paths.journal).records, -1, last).shard.state
    refused = {int(sequence) for sequence, _ in state.refused.tolist() if sequence > 0}
    assert {sequence for sequence, trade in told.items() if trade["state"] == "REFUSED"} == refused & told.keys()
    assert watching.listener.types().count("snapshot") == 1, "a worker that was killed is no new beginning"
    feeder.close()
    watching.hub.close()
    watching.live.close()
