"""What capture refuses, on a real NATS server: each refusal that a source was answered is told once, whoever dies, and over restarts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code
from pks.edges.files.rows import TradeRow
from pks.edges.nats.streams import HEADER_REFUSALS, TRADE_REJECTED
from pks.engine.booking.border import Border
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.layouts.reject import REJECT
from pks.proto.pks.v1 import booking_pb2
from pks.topology import Host
from tests.conftest import wait_until
from tests.crash.nats_server import NatsServer, nats_server
from tests.crash.system import COMPILE_SECONDS, SECONDS, Feeder, Sending, System, running
from tests.crash.test_edge_nats import cells, desk

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as made:
        yield made


class Sender:
    """Sends trades, most of which must be refused, each with an id of its own."""

    def __init__(self, system: System, seed: int) -> None:
        self.feeder, self.chance, self.number = Feeder(system, seed), random.Random(seed), 0
        desk(self.feeder)
        self.border = Border(self.feeder.booking.catalogue)
        self.known = self._trade("known")
        self.feeder.book(self.known)
        self.feeder.settle()

    def _trade(self, name: str, **words: str) -> Any:
        row = {"trade_id": name, "book": "A", "instrument": "X", "side": "BUY", "quantity": "5", "price": "10"} | words
        return self.border.group_of(TradeRow(line=1, row=1, trade_time="2025-01-12T10:00:00Z", **row))

    def send(self, count: int) -> None:
        """So many groups, without waiting for answers."""
        for _ in range(count):
            self.number += 1
            self.feeder.offer(self._group(f"R{self.number}"))
            self.feeder.pump()

    def _group(self, name: str) -> Any:
        group = self._trade(name, **({"note": "a note " * 40} if self.chance.random() < 0.3 else {}))
        match self.chance.randrange(7):
            case 0:
                group["qty_raw"][0] = 0
            case 1:
                group["book_id"][0] = 3_000_000_000
            case 2:
                group["kind"][0] = 200
            case 3:  # it waits for its trade, then is refused
                group = np.zeros(1, EVENT)
                group["kind"], group["group_count"], group["source_id"], group["trade_id"] = Kind.CANCEL, 1, 1, name.encode()
                group["second_key_lo"] = self.number
            case 4:
                group["side"][0], group["price_raw"][0] = 5, -(2**63)
            case 5:  # another content under a known key
                group = self.known.copy()
                group["qty_raw"][0], group["trade_time_ns"][0] = self.number, group["trade_time_ns"][0] + self.number
            case _:
                pass  # booked
        return group

    def refused(self) -> list[Sending]:
        """What was answered with a refusal of capture."""
        return [one for one in self.feeder.sendings if any(is_refusal(answer) for answer in one.answers)]


def is_refusal(answer: Any) -> bool:
    code = Code(int(answer["code"]))
    return code not in (Code.ACCEPTED, Code.DUPLICATE) and (not answer["sequence"] or code is Code.IDEMPOTENCY_CONFLICT)


def told(server: NatsServer) -> list[Any]:
    """Every Rejection of what never became an event, in the order of its message."""
    found = []
    for message in server.messages("BOOKING", TRADE_REJECTED):
        if HEADER_REFUSALS in message.headers:
            found += booking_pb2.TradeRejected.FromString(message.data).rejections
    return found


def judge_refusals(server: NatsServer, sender: Sender) -> None:
    """Each that was answered is told: once where it was sent once, and never more often than it was sent."""
    refused = sender.refused()
    wanted = {one.group.tobytes(): one for one in refused}
    assert len(wanted) == len(refused) > 50
    wait_until(lambda: {one.original for one in told(server)} >= wanted.keys(), SECONDS, "every refusal is told")
    said = told(server)
    sent = {one.group.tobytes(): one.sent_count for one in sender.feeder.sendings}
    for original, count in Counter(one.original for one in said).items():
        assert count <= sent[original], "told more often than it was sent"
    for one in said:
        assert one.sequence == 0 and one.recorded_ns > 0 and one.reason
        if (sending := wanted.get(one.original)) is not None:
            assert one.code in {Code(int(answer["code"])).name for answer in sending.answers}
            if Code[one.code] is not Code.BAD_RECORD:
                assert one.field
            assert one.trade_id == sending.group[0]["trade_id"].decode()
            assert one.source == "MANUAL"
    numbers = [message.headers[HEADER_REFUSALS] for message in server.messages("BOOKING", TRADE_REJECTED)]
    ends = [tuple(map(int, window.split("-"))) for window in numbers]
    assert all(first <= last for first, last in ends)
    assert all(before[1] < after[0] for before, after in pairwise(ends)), "numbers grow"


def test_each_refusal_is_told_once_whoever_dies(server: NatsServer, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with running(tmp_path, "rejkill", **server.settings) as system:
        system.start()
        sender = Sender(system, seed)
        victims = ["bus", "server", "capture", "bus", "capture"]
        chance.shuffle(victims)
        for victim in victims:
            sender.send(chance.randint(30, 60))
            if victim == "server":
                server.kill()
                sender.send(30)
                server.start()
            else:
                system.kill(victim)
        sender.send(30)
        system.wait_whole()
        sender.feeder.settle()
        judge_refusals(server, sender)
        host = Host.open(system.instance)
        assert host.control is not None
        assert [cell.value for cell in host.control.read_cells() if cell.name == "rejects_dropped"] == [0]
        sender.feeder.close()
        assert system.stop() == 0
        late = [kernel for kernel in system.late_kernels() if kernel.startswith(("bus:", "capture:"))]
        assert not late, "warm() calls every kernel"


@pytest.mark.long
def test_a_restart_a_cut_file_and_a_wiped_server(server: NatsServer, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rejstart", **server.settings) as system:
        system.start()
        sender = Sender(system, seed)
        sender.send(120)
        sender.feeder.settle()
        judge_refusals(server, sender)
        path = system.paths.stream_file("rejects")

        def restart() -> None:
            system.start()
            sender.feeder.connect()
            sender.send(60)
            sender.feeder.settle(COMPILE_SECONDS)

        before = len(told(server))
        assert system.stop() == 0
        restart()
        judge_refusals(server, sender)
        assert len(told(server)) == len(sender.refused()) > before

        system.kill("all")  # then the power: what was told of the file's end is not there any more
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 20 * REJECT.itemsize - 7)
        restart()
        judge_refusals(server, sender)
        assert len(told(server)) == len(sender.refused()), "numbers of the new epoch are not those that were told"

        system.kill("bus")
        server.remove("BOOKING")
        wait_until(lambda: len(told(server)) > 0, SECONDS, "BOOKING filled again")
        wait_until(lambda: cells(system).get("edge_lag") == 0, SECONDS, "all of it")
        kept = {one.original for one in told(server)}
        assert len(kept) == len(told(server)) >= len(sender.refused()) - 21, "all but what was cut off"

        assert system.stop() == 0
        path.unlink()
        restart()
        wait_until(
            lambda: {one.group.tobytes() for one in sender.refused()[-20:]} <= {one.original for one in told(server)}, SECONDS, "goes on"
        )
        sender.feeder.close()
