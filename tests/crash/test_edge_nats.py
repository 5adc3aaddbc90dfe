"""The bus on a real NATS server: each trade is one message, whatever is killed, and the stream alone says where to go on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pks
from pks.cli.group import main
from pks.client.remote import NotReached
from pks.edges.files.rows import TradeRow
from pks.edges.nats.origin import origin_of
from pks.edges.nats.streams import CANONICAL, EVENTS_SUBJECT, LIFECYCLE_APPLIED, TRADE_BOOKED, TRADE_REJECTED
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Account, Book, Currency, Entity, Instrument, Source
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT_BYTES
from pks.proto.codec import APPLIED, BOOKED, events_of
from pks.proto.pks.v1 import booking_pb2, position_pb2
from pks.segments.errors import StaleHost
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.edges.edge import EdgeState
from tests.conftest import wait_until
from tests.crash.nats_server import NatsServer, Stored, nats_server
from tests.crash.system import ROOT, SECONDS, Feeder, LiveDay, System, running

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
            rejections = booking_pb2.TradeRejected.FromString(message.data).rejections
            told.update(one.sequence for one in rejections if one.sequence)  # 0: it never became an event
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
    origin = origin_of(view.records[1])
    messages = [message for message in server.messages("BOOKING") if message.headers.get("Pks-Origin") == origin]
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
        message = next(m for m in server.messages("BOOKING", TRADE_BOOKED))
        first = booking_pb2.TradeBooked.FromString(message.data).trades[0]
        assert first.trade_id and (first.book or first.is_block) and first.quantity and first.trade_time_ns
        assert message.headers["Pks-Origin"] and message.headers["Nats-Msg-Id"]
        assert int(message.headers["Pks-First"]) == first.sequence
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


@pytest.mark.long
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


def refill_nats(system: System) -> str:
    """What the command says."""
    settings = {
        "PKS_EDGES": "external",
        "PKS_NATS_URL": system.settings["edges.nats_url"],
        "PKS_NATS_NKEY": system.settings["edges.nats_nkey"],
    }
    said = CliRunner().invoke(main, ["refill", "nats", "--yes", "--data-dir", str(system.data_dir)], env=settings)
    assert said.exit_code == 0, said.output
    return said.output


def test_refill_empties_what_is_ours_and_the_bus_fills_it(server: NatsServer, tmp_path: Path, seed: int) -> None:
    """Under way, and again while no system runs: every event is told once, what others said is where it was."""
    with running(tmp_path, "busrefill", **server.settings) as system:
        system.start()
        feeder, day = a_day(system, seed)
        wait_until(lambda: cells(system).get("edge_state") == EdgeState.UP, SECONDS, "the bus has made its streams")
        server.publish("backoffice.dlq.booking", b"a dead letter")
        for _ in range(10):
            for _ in range(8):
                day.step()
            feeder.settle()
            server.publish(TRADE_BOOKED, b"garbage of somebody else", user="booker")
        wait_caught_up(system)
        others = [message for message in server.messages("BOOKING") if "Pks-Origin" not in message.headers]
        letters = server.messages("DLQ", "backoffice.dlq.booking")
        before = max(message.sequence for message in server.messages("BOOKING"))
        for _ in range(20):
            day.step()
        said = refill_nats(system)
        assert "the running system fills it again" in said
        assert "BOOKING 0" not in said and "EVENTS 0" not in said and "POSITIONS_LATEST 0" not in said
        for _ in range(20):
            day.step()
        feeder.settle()
        judge_streams(system, server)
        booking = server.messages("BOOKING")
        assert [message for message in booking if "Pks-Origin" not in message.headers] == others
        assert all(message.sequence > before for message in booking if "Pks-Origin" in message.headers), "told anew"
        assert {letter.sequence for letter in letters} <= {letter.sequence for letter in server.messages("DLQ")}
        told = sequences_told([message for message in booking if "Pks-Origin" in message.headers])
        records = b"".join(events_of(message.data)[2] for message in server.messages("EVENTS"))
        feeder.close()
        assert system.stop() == 0
        assert "the next `pks run` fills nats again" in refill_nats(system)
        assert server.messages("EVENTS") == server.messages("POSITIONS_LATEST") == []
        assert server.messages("BOOKING") == others
        assert "it had nothing" in refill_nats(system)
        system.start()
        wait_caught_up(system)
        again = server.messages("BOOKING")
        assert sequences_told([message for message in again if "Pks-Origin" in message.headers]) == told, "each once, with its verdict"
        assert b"".join(events_of(message.data)[2] for message in server.messages("EVENTS")).startswith(records)
        assert server.messages("POSITIONS_LATEST")
        assert system.stop() == 0


def test_refill_of_a_directory_without_a_journal_is_refused(server: NatsServer, tmp_path: Path) -> None:
    settings = {"PKS_EDGES": "external", "PKS_NATS_URL": server.server.url(), "PKS_NATS_NKEY": str(server.server.seed_file("pks"))}
    said = CliRunner().invoke(main, ["refill", "nats", "--yes", "--data-dir", str(tmp_path / "none")], env=settings)
    assert said.exit_code == 1
    assert "there is no journal in" in said.output


def ids_booked(system: System) -> Counter[str]:
    """How often each trade id was booked."""
    view = JournalView(system.paths.journal)
    last = int(Host.open(system.instance).events.head)
    events = view.records[1 : last + 1]
    return Counter(trade_id.decode() for trade_id in events["trade_id"][events["kind"] == int(Kind.TRADE)].tolist())


def desk(feeder: Feeder) -> None:
    """A little reference data, the same for each system."""
    for code in ("USD", "EUR"):
        feeder.define(Currency(code=code, minor_digits=2))
    feeder.define(Entity(code="E", functional_currency="USD", timezone="UTC"))
    feeder.define(Source(code="MANUAL"))
    feeder.define(Account(code="acc", entity="E"))
    feeder.define(
        Book(code="A", entity="E", method="FIFO", oversell="FLIP", fees_in_cost=False, report_currency="USD", zone="UTC", name="A")
    )
    feeder.define(
        Instrument(
            code="X", asset_class="EQUITY", currency="USD", settle_ccy="USD", price_scale=4, qty_scale=4, money_scale=18, quote_factor="1",
            negative_price=False, zero_price=False, cleared=False, traded_asset=False,
        )
    )  # fmt: skip


def trade(trade_id: str, **more: Any) -> Any:
    words: dict[str, Any] = {
        "trade_id": trade_id, "book": "A", "instrument": "X", "side": "BUY", "quantity": "10", "price": "100.5",
        "trade_time_ns": 1_700_000_000_000_000_000,
    }  # fmt: skip
    return booking_pb2.Trade(**(words | more))


def booked(*trades: Any) -> bytes:
    return bytes(booking_pb2.TradeBooked(trades=trades).SerializeToString())


def applied(trade_id: str, kind: str, **words: Any) -> bytes:
    event = booking_pb2.LifecycleEvent(trade=booking_pb2.Trade(trade_id=trade_id, kind=kind, **words))
    return bytes(booking_pb2.LifecycleEventApplied(events=[event]).SerializeToString())


GARBAGE: dict[str, tuple[str, bytes, str, str]] = {
    "no protobuf": (TRADE_BOOKED, b"\xff\xff\xff\xff", "MALFORMED", "BAD_ENCODING"),
    "text": (TRADE_BOOKED, b'{"trade_id": "T1"}', "MALFORMED", "BAD_ENCODING"),
    "nothing": (TRADE_BOOKED, b"", "MALFORMED", "BAD_ENCODING"),
    "cut short": (TRADE_BOOKED, booked(trade("G1"))[:-3], "MALFORMED", "BAD_ENCODING"),
    "no id": (TRADE_BOOKED, booked(trade("")), "MALFORMED", "MISSING_FIELD"),
    "no number": (TRADE_BOOKED, booked(trade("G2", quantity="ten")), "MALFORMED", "NOT_A_NUMBER"),
    "a long number": (TRADE_BOOKED, booked(trade("G3", quantity="9" * 6000)), "MALFORMED", "OUT_OF_RANGE"),
    "a time that is none": (TRADE_BOOKED, booked(trade("G4", trade_time_ns=2**63 - 1)), "MALFORMED", "TIME_IN_FUTURE"),
    "no book": (TRADE_BOOKED, booked(trade("G5", book="NOWHERE")), "UNKNOWN_REF", "UNKNOWN_BOOK"),
    "no instrument": (CANONICAL, booked(trade("G6", instrument="\u2603\n\x00")), "UNKNOWN_REF", "UNKNOWN_INSTRUMENT"),
    "other content": (TRADE_BOOKED, booked(trade("T1", quantity="11")), "CONFLICT", "IDEMPOTENCY_CONFLICT"),
    "no trade to cancel": (LIFECYCLE_APPLIED, applied("NONE", "CANCEL"), "UNKNOWN_REF", "UNKNOWN_TRADE"),
    "no kind": (LIFECYCLE_APPLIED, applied("T1", "EXPLODE"), "MALFORMED", "UNKNOWN_KIND"),
    "a huge id": (TRADE_BOOKED, booked(trade("i" * 300_000)), "MALFORMED", "BAD_TEXT"),
}


def test_others_book_here_and_garbage_becomes_dead_letters(server: NatsServer, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "busin", **server.settings) as system:
        system.start()
        feeder = Feeder(system, seed)
        desk(feeder)
        wait_until(lambda: cells(system).get("edge_state") == EdgeState.UP, SECONDS, "the bus is up")
        server.publish(TRADE_BOOKED, booked(trade("T1"), trade("T2", side="SELL", quantity="3")), user="booker")
        server.publish(CANONICAL, booked(trade("P1", fee="0.25", fee_currency="USD")), user="booker")
        server.publish(LIFECYCLE_APPLIED, applied("T1", "AMEND", quantity="12"), user="booker")
        server.publish(TRADE_BOOKED, booked(trade("T1")), user="booker")  # again
        for subject, payload, _, _ in GARBAGE.values():
            server.publish(subject, payload)
        server.publish(TRADE_BOOKED, booked(*(trade(f"N{n}") for n in range(300)), trade("bad", book="?"), trade("last")))
        wait_until(lambda: ids_booked(system)["last"] and server.pending(system) == 0, SECONDS, "everything answered")
        counts = ids_booked(system)
        assert set(counts.values()) == {1}
        assert counts.keys() == {"T1", "T2", "P1", "last", *(f"N{n}" for n in range(300))}
        letters = server.messages("DLQ")
        assert len(letters) == len(GARBAGE) + 1
        for name, (subject, payload, kind, code) in GARBAGE.items():
            found = [letter for letter in letters if letter.data == payload and letter.headers["Pks-Dlq-Subject"] == subject]
            assert len(found) == 1, name
            headers = found[0].headers
            assert (headers["Pks-Dlq-Class"], headers["Pks-Dlq-Code"]) == (kind, code), name
            assert headers["Pks-Dlq-Stream"] == "BOOKING" and headers["Pks-Dlq-Reason"], name
        assert [letter.headers["Pks-Dlq-Trade-Id"] for letter in letters if letter.headers.get("Pks-Dlq-Index") == "300"] == ["bad"]
        judge_streams(system, server)
        feeder.close()


def test_two_systems_on_one_server_book_each_trade_once(server: NatsServer, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "busone", **server.settings) as one, running(tmp_path, "bustwo", **server.settings) as two:
        systems = (one, two)
        feeders = []
        for system in systems:
            system.start()
            feeders.append(Feeder(system, seed))
            desk(feeders[-1])
        for number, feeder in enumerate(feeders):
            border = Border(feeder.booking.catalogue)
            for n in range(40):
                row = {"trade_id": f"S{number}-{n}", "book": "A", "instrument": "X", "side": "BUY", "quantity": str(n + 1), "price": "10"}
                feeder.book(border.group_of(TradeRow(line=1, row=1, trade_time="2025-01-12T10:00:00Z", **row)))
            for n in range(0, 40, 8):
                feeder.book(border.group_of(TradeRow(line=1, row=1, trade_id=f"S{number}-{n}", kind="AMEND", quantity="100.5")))
                feeder.book(border.group_of(TradeRow(line=1, row=1, trade_id=f"S{number}-{n}", kind="AMEND", quantity="50")))
                feeder.book(border.group_of(TradeRow(line=1, row=1, trade_id=f"S{number}-{n + 1}", kind="CANCEL")))
            feeder.settle()
        system_ids = {f"S{number}-{n}" for number in range(2) for n in range(40)}
        wait_until(lambda: all(ids_booked(system).keys() == system_ids for system in systems), SECONDS, "each has all trades")
        one.kill("bus")
        wait_until(lambda: all(corrections(system) == 30 for system in systems), SECONDS, "each has all corrections")
        for system in systems:
            wait_caught_up(system)
        wait_until(lambda: all(server.pending(system) == 0 for system in systems), SECONDS, "nothing under way")
        for system in systems:
            assert set(ids_booked(system).values()) == {1}
            assert corrections(system) == 30, "no echo"
        assert server.messages("DLQ") == []
        ours, theirs = (position(system) for system in systems)
        assert ours == theirs, "both have the same position"
        for feeder in feeders:
            feeder.close()


def corrections(system: System) -> int:
    view = JournalView(system.paths.journal)
    events = view.records[1 : int(Host.open(system.instance).events.head) + 1]
    return int(np.isin(events["kind"], [int(Kind.AMEND), int(Kind.CANCEL)]).sum())


def position(system: System) -> tuple[int, int, int]:
    record = Host.open(system.instance).positions.snapshot()[0]
    return int(record["qty_raw"]), int(record["cost_lo"]), int(record["open_lots"])


def local_positions(system: System) -> list[dict[str, Any]]:
    with pks.attach(system.instance) as host:
        return sorted(host.positions.to_dicts(), key=lambda one: (one["book"], one["instrument"]))


@pytest.mark.long
def test_positions_are_followed_from_afar(server: NatsServer, tmp_path: Path, seed: int) -> None:
    """The same figures as on the host, the snapshot for a late joiner, changes, over a restart of server and worker; then silence."""
    with running(tmp_path, "busfar", shards="2", **server.settings) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(200):
            day.step()
        feeder.settle()
        with pks.connect(server.server.url(), nkey=server.server.seed_file("algo")) as host:

            def agrees() -> bool:
                return [one.as_dict() for one in host.positions] == local_positions(system)

            wait_until(agrees, SECONDS, "the same positions")
            some = next(iter(host.positions))
            with pks.attach(system.instance) as here:
                near = here.positions[some.book, some.instrument]
            for figure in (
                "quantity",
                "average_price",
                "cost",
                "fees",
                "clearing_cost",
                "variation",
                "last_price",
                "trades_count",
                "forced",
            ):
                assert getattr(some, figure) == getattr(near, figure), figure
            assert host.positions[some.book, some.instrument] == some
            with pytest.raises(KeyError):
                host.positions["NOWHERE", "NOTHING"]
            updates = host.updates(timeout=SECONDS)
            for _ in range(40):
                day.step()
            feeder.settle()
            assert next(updates).last_sequence > 0
            wait_until(agrees, SECONDS, "the changes")
            server.kill()
            for _ in range(40):
                day.step()
            server.start()
            system.kill("bus")
            feeder.settle()
            wait_until(agrees, SECONDS, "the changes that came while the server was dead")
            assert host.connections_count > 1
            for message in server.messages("POSITIONS"):
                for told in position_pb2.PositionsUpdated.FromString(message.data).positions:
                    assert told.last_sequence <= int(message.headers["Pks-Sequence"])
            server.wipe()
            server.start()
            count = len(local_positions(system))
            wait_until(lambda: len(server.messages("POSITIONS_LATEST")) == count, SECONDS, "the latest of each after a wipe")
            words = [sys.executable, str(ROOT / "examples" / "remote_strategy.py"), "--url", server.server.url(), "--seconds", "3"]
            words += ["--nkey", str(server.server.seed_file("algo")), "--book", some.book]
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": str(ROOT)})
            assert done.returncode == 0, done.stderr
            assert f"{some.instrument} " in done.stdout and "changes" in done.stdout
            feeder.close()
            system.stop()

            def is_stale() -> bool:
                try:
                    host.check_live()
                except StaleHost:
                    return True
                return False

            wait_until(is_stale, SECONDS, "silence")
        with pytest.raises(NotReached):
            pks.connect(server.server.url(), nkey=server.server.seed_file("algo"), timeout=0.5)


def test_what_comes_in_is_booked_once_whoever_dies(server: NatsServer, tmp_path: Path, seed: int) -> None:
    """Messages of others while the worker, the server and capture die: each trade once, nothing left over, no dead letter."""
    chance = random.Random(seed)
    with running(tmp_path, "busonce", **server.settings) as system:
        system.start()
        feeder = Feeder(system, seed)
        desk(feeder)
        wait_until(lambda: cells(system).get("edge_state") == EdgeState.UP, SECONDS, "the bus is up")
        victims = ["bus", "server", "capture", "bus", "journal", "accumulator-0"]
        chance.shuffle(victims)
        number = 0
        for victim in victims:
            for _ in range(20):
                size = chance.randint(1, 12)
                server.publish(TRADE_BOOKED, booked(*(trade(f"K{n}") for n in range(number, number + size))), user="booker")
                number += size
            amended = f"K{chance.randrange(number)}"
            server.publish(LIFECYCLE_APPLIED, applied(amended, "AMEND", quantity=str(100 + number)), user="booker")
            if victim == "server":
                server.kill()
                server.start()
            else:
                system.kill(victim)
        system.wait_whole()
        wait_until(
            lambda: len(ids_booked(system)) == number and server.pending(system) == 0, 2 * SECONDS, "everything booked and acknowledged"
        )
        counts = ids_booked(system)
        assert counts == Counter({f"K{n}": 1 for n in range(number)})
        assert corrections(system) == len(victims)
        assert server.messages("DLQ") == []
        judge_streams(system, server)
        feeder.close()
