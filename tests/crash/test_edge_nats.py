"""The bus on a real NATS server: each trade is one message, whatever is killed, and the stream alone says where to go on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pks.edges.nats.streams import EVENTS_SUBJECT, LIFECYCLE_APPLIED, TRADE_BOOKED, TRADE_REJECTED
from pks.layouts.event import EVENT_BYTES
from pks.proto.codec import APPLIED, BOOKED, events_of
from pks.proto.pks.v1 import booking_pb2
from pks.segments.journal_view import JournalView
from pks.topology import Host
from tests.conftest import wait_until
from tests.crash.nats_server import NatsServer, Stored, nats_server
from tests.crash.system import SECONDS, Feeder, LiveDay, System, running

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as made:
        yield made


def cells(system: System) -> dict[str, Any]:
    """The bus's metrics."""
    control = Host.open(system.instance).control
    owners = {facts.owner for facts in control.workers() if facts.name == "bus"}
    return {cell.name: cell.value for cell in control.read_cells() if cell.owner in owners}


def wait_caught_up(system: System) -> int:
    """Until the bus has told everything that is durable; the last event."""

    def caught_up() -> bool:
        host = Host.open(system.instance, system.data_dir)
        found = cells(system)
        return found.get("edge_state") == 3 and found.get("edge_cursor") == host.events.head == host.durable_sequence

    wait_until(caught_up, SECONDS, f"the bus at the end: {system.log('bus')[-3:]}")
    return int(Host.open(system.instance).events.head)


def sequences_told(messages: list[Stored]) -> Counter[int]:
    """How often each event stands in the messages of BOOKING."""
    told: Counter[int] = Counter()
    for message in messages:
        if message.subject == TRADE_BOOKED:
            told.update(trade.sequence for trade in booking_pb2.TradeBooked.FromString(message.data).trades)
        elif message.subject == LIFECYCLE_APPLIED:
            told.update(event.trade.sequence for event in booking_pb2.LifecycleEventApplied.FromString(message.data).events)
        elif message.subject == TRADE_REJECTED:
            told.update(one.sequence for one in booking_pb2.TradeRejected.FromString(message.data).rejections)
    return told


def judge_streams(system: System, server: NatsServer) -> None:
    """Both streams against the journal: every event, each once, in order, with the accumulators' verdicts."""
    last = wait_caught_up(system)
    view = JournalView(system.paths.journal)
    host = Host.open(system.instance, system.data_dir)
    following = 1
    for message in server.messages("EVENTS", EVENTS_SUBJECT):
        first, upto, records = events_of(message.data)
        assert first == following, f"events {following} to {first - 1} are missing, or told twice"
        assert (message.headers["Pks-First"], message.headers["Pks-Last"]) == (str(first), str(upto))
        assert records == view.records[first : upto + 1].tobytes()
        assert len(records) == (upto - first + 1) * EVENT_BYTES
        following = upto + 1
    assert following == last + 1
    events = view.records[1 : last + 1]
    refused = {int(one["sequence"]): int(one["code"]) for k in range(host.shards) for one in verdicts(host, k)}
    booked = {int(s) for s in events["sequence"][[int(kind) in BOOKED for kind in events["kind"]]]}
    applied = {int(s) for s in events["sequence"][[int(kind) in APPLIED for kind in events["kind"]]]}
    by_subject: dict[str, Counter[int]] = {}
    messages = server.messages("BOOKING")
    for subject in (TRADE_BOOKED, LIFECYCLE_APPLIED, TRADE_REJECTED):
        by_subject[subject] = sequences_told([message for message in messages if message.subject == subject])
    twice = [sequence for counts in by_subject.values() for sequence, count in counts.items() if count > 1]
    assert not twice, f"told twice: {twice[:10]}"
    assert by_subject[TRADE_BOOKED].keys() == booked - refused.keys()
    assert by_subject[LIFECYCLE_APPLIED].keys() == applied - refused.keys()
    assert by_subject[TRADE_REJECTED].keys() == (booked | applied) & refused.keys()


def verdicts(host: Host, shard: int) -> Iterator[Any]:
    """Every refusal of a shard in this run's stream."""
    reader = host.verdicts(shard).reader()
    while len(records := reader.read(4096)):
        yield from records
    reader.close()


def a_day(system: System, seed: int) -> tuple[Feeder, LiveDay]:
    feeder = Feeder(system, seed)
    return feeder, LiveDay(seed, feeder)


def test_every_event_goes_out_once(server: NatsServer, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "bus", **server.settings) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(400):
            day.step()
        feeder.settle()
        judge_streams(system, server)
        trade = next(m for m in server.messages("BOOKING", TRADE_BOOKED))
        first = booking_pb2.TradeBooked.FromString(trade.data).trades[0]
        assert first.trade_id and first.book and first.quantity and first.trade_time_ns
        assert trade.headers["Pks-Origin"] and trade.headers["Nats-Msg-Id"]
        assert int(trade.headers["Pks-First"]) == first.sequence
        feeder.close()
        assert system.stop() == 0
        assert not [kernel for kernel in system.late_kernels() if kernel.startswith("bus:")], "warm() calls every kernel"


def test_kills_in_mid_stream(server: NatsServer, tmp_path: Path, seed: int) -> None:
    """Worker, capture, accumulator and server die while events flow; each trade is one message, without a gap."""
    chance = random.Random(seed)
    with running(tmp_path, "buskill", shards="2", **server.settings) as system:
        system.start()
        feeder, day = a_day(system, seed)
        victims = ["bus", "server", "bus", "capture", "bus", "accumulator-0", "server", "journal"]
        chance.shuffle(victims)
        for victim in victims:
            for _ in range(chance.randint(40, 120)):
                day.step()
            if victim == "server":
                server.kill()
                for _ in range(60):
                    day.step()
                server.start()
            else:
                system.kill(victim)
        for _ in range(100):
            day.step()
        system.wait_whole()
        feeder.settle()
        judge_streams(system, server)
        feeder.close()


def test_a_restart_goes_on_and_a_wipe_is_filled_again(server: NatsServer, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "buswipe", **server.settings) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(150):
            day.step()
        feeder.settle()
        wait_caught_up(system)
        told = len(server.messages("BOOKING"))
        system.kill("all")
        system.start()
        feeder.connect()
        wait_caught_up(system)
        assert len(server.messages("BOOKING")) == told, "what was told is not told again"
        for _ in range(50):
            day.step()
        feeder.settle()
        wait_caught_up(system)
        server.wipe()
        server.start()
        wait_until(lambda: bool(server.messages("EVENTS")), SECONDS, "streams made again")
        judge_streams(system, server)
        server.remove("BOOKING")
        wait_until(lambda: bool(server.messages("BOOKING")), SECONDS, "BOOKING filled again")
        judge_streams(system, server)
        server.purge("EVENTS")
        wait_until(lambda: bool(server.messages("EVENTS")), SECONDS, "EVENTS filled again")
        judge_streams(system, server)
        feeder.close()
