"""gRPC over a whole core: clients far away show what readers on the host show, while workers die, and say so when the core is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pks
from pks.bff.live import NotLive, State
from pks.client import remote
from pks.segments.errors import StaleHost
from pks.topology import Host
from tests.conftest import wait_until
from tests.crash.system import SECONDS, Feeder, LiveDay, System, running
from tests.unit.bff.grpc_served import Served


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with running(tmp_path, "grpc") as system:
        system.start()
        yield system


class Core:
    """What `Served` asks of a host: this one is run by its own supervisor."""

    def __init__(self, system: System) -> None:
        self.instance, self.host, self.plans = system.instance, Host.open(system.instance), ()


def shown(system: System) -> list[dict[str, Any]]:
    with pks.attach(system.instance) as here:
        return sorted(here.positions.to_dicts(), key=lambda one: (one["book"], one["instrument"]))


@pytest.mark.long
def test_clients_follow_a_core_whose_workers_die(system: System, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    served = Served(Core(system), tmp_path / "grpc")  # type: ignore[arg-type]
    try:
        hosts = [pks.connect(f"localhost:{served.port}", "token-anna", ca=served.ca) for _ in range(5)]
        for victim in ("accumulator-0", "journal", "capture", "accumulator-0"):
            for _ in range(150):
                day.step()
            system.kill(victim)
            feeder.settle()
            system.wait_whole()
            wait_until(lambda: all(host.positions.to_dicts() == shown(system) for host in hosts), SECONDS, f"the same after {victim} died")
        wait_until(lambda: served.live.freshness().state is State.LIVE, SECONDS, "live")
        assert len(hosts[0].positions) and all(host.connections_count == 1 for host in hosts), "no stream was broken by it"
        monkeypatch.setattr(remote, "STALE_SECONDS", 1.5)
        feeder.close()
        system.kill("all")

        def is_stale(host: Any) -> bool:
            try:
                host.check_live()
            except StaleHost:
                return True
            return False

        wait_until(lambda: all(map(is_stale, hosts)), SECONDS, "every client knows")
        with pytest.raises(NotLive):
            served.live.freshness()
        for host in hosts:
            host.close()
        assert served.failures == []
    finally:
        served.close()
