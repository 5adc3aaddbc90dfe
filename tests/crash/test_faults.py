"""Faults that are no deaths: a full disk, clocks that step back, readers that stop, producers that write garbage, damaged and wrong files.

One small system serves the tests of this module in turn; each leaves it whole.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.base.clock import NS_PER_DAY, NS_PER_SECOND, format_time
from pks.base.errors import Code
from pks.client.producer import NO_ROOM, Producer
from pks.edges.files.rows import TradeRow
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Account, Book, Currency, Entity, Instrument, Source
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.segments.journal_file import file_path, record_offset
from pks.segments.journal_recovery import verify
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.checkpoint import checkpoints
from pks.workers.points import VARIABLE, points_hit
from tests.conftest import full_disk, wait_until
from tests.crash.system import SECONDS, Feeder, System, Watcher, a_system, judge, quiesce, running

pytestmark = pytest.mark.timeout(600)

DAY_0 = 20_100  # 2025-01-12
DEDUP_KEYS = 4096
RECORDS = 8192
BOOKS = ("A", "B")
SILENT_SECONDS = 8
"""Longer than a busy machine keeps a worker from its turn, so that only those that were stopped are killed."""


class Desk(Feeder):
    """A feeder with a little reference data and trades to order."""

    def __init__(self, system: System, seed: int) -> None:
        super().__init__(system, seed)
        for code in ("USD", "EUR"):
            self.define(Currency(code=code, minor_digits=2))
        self.define(Entity(code="E", functional_currency="USD", timezone="UTC"))
        self.define(Source(code="MANUAL"))
        self.define(Account(code="acc", entity="E"))
        for code in BOOKS:
            self.define(
                Book(
                    code=code, entity="E", method="FIFO", oversell="FLIP", fees_in_cost=False, report_currency="USD", zone="UTC", name=code
                )
            )
        self.define(
            Instrument(
                code="EQ",
                asset_class="EQUITY",
                currency="USD",
                settle_ccy="USD",
                price_scale=2,
                qty_scale=0,
                money_scale=18,
                multiplier="1",
                quote_factor="1",
                negative_price=False,
                zero_price=False,
                cleared=False,
                traded_asset=False,
            )
        )
        self.number = 0

    def trade(self, *, day: int | None = None, trade_id: str = "", note: str = "", book: str = "A", side: str = "BUY") -> Any:
        """EVENT[n]: the group of one trade, with an id that was not used before unless one is given; a date has five hundred."""
        self.number += 1
        day = self.number // 500 if day is None else day
        row = TradeRow(
            line=1,
            row=1,
            trade_id=trade_id or f"x{self.number}",
            book=book,
            instrument="EQ",
            account="acc",
            side=side,
            quantity="1",
            price="10.25",
            note=note,
            trade_time=format_time(
                (DAY_0 + day) * NS_PER_DAY + self.number % 80_000 * NS_PER_SECOND if not trade_id else (DAY_0 + day) * NS_PER_DAY
            ),
        )
        return Border(self.booking.catalogue).group_of(row)

    def trades(self, count: int) -> None:
        """Send that many; answers come later."""
        for _ in range(count):
            self.book(self.trade())

    def works(self, *, after_a_death: bool = False) -> None:
        """A trade is booked and answered now. A capture that was just killed may have sequenced it: a repeat, then."""
        self.book(self.trade())
        self.settle()
        allowed = {Code.ACCEPTED, Code.DUPLICATE} if after_a_death else {Code.ACCEPTED}
        assert int(self.sendings[-1].answers[-1]["code"]) in allowed, self.sendings[-1].answers


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("faults")
    yield from a_system(folder, "fault", dedup_keys=str(DEDUP_KEYS), silent=str(SILENT_SECONDS), clock=str(folder / "clock"))


@pytest.fixture(scope="module")
def desk(system: System) -> Iterator[Desk]:
    system.start()
    made = Desk(system, 1)
    yield made
    made.close()


def cell(system: System, worker: str, name: str) -> int:
    """A counter or gauge of a worker."""
    control = Host.open(system.instance).control
    owner = {facts.name: facts.owner for facts in control.workers()}[worker]
    return next(int(found.value) for found in control.read_cells() if (found.owner, found.name) == (owner, name))


def restarts(system: System) -> dict[str, int]:
    return {name: facts.restarts_count for name, facts in system.workers().items()}


def test_a_disk_that_is_full_for_the_journal(system: System, desk: Desk) -> None:
    desk.works()
    host = Host.open(system.instance)
    journal = system.children()["journal"]
    before = quiesce(system, desk)
    hard = resource.prlimit(journal, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(journal, resource.RLIMIT_FSIZE, (record_offset(before + 3, RECORDS) + 100, hard))
    desk.trades(200)
    wait_until(lambda: cell(system, "journal", "disk_full") >= 5, SECONDS, "a full disk, tried again and again")
    answered = [sequence for _, _, sequence in desk.answered()]
    durable = host.durable_sequence
    desk.pump()
    assert [sequence for _, _, sequence in desk.answered()] == answered, "no answer comes"
    assert max(answered) <= durable, "nothing was acknowledged that is not on disk"
    assert len(desk.open) > 150, "what was sent waits"
    assert cell(system, "journal", "disk_is_full") == 1
    assert "write failed, File too large" in system.workers()["journal"].last_error
    resource.prlimit(journal, resource.RLIMIT_FSIZE, (hard, hard))
    desk.settle()
    assert cell(system, "journal", "disk_is_full") == 0
    assert system.workers()["journal"].last_error == ""
    assert system.children()["journal"] == journal, "the same process went on"


def test_a_small_disk_without_room_for_anybody(mount_small: Callable[..., Path], seed: int) -> None:
    """Journal, streams, checkpoints, keys and logs lie on it: nobody dies, and what waited is booked when there is room."""
    small_disk = mount_small("16m")
    with running(small_disk, "full") as system:
        system.output_file = small_disk.parent / "output"
        system.start()
        desk = Desk(system, seed)
        note = "n" * 4000  # 22 records a trade: the journal soon needs another file
        desk.works()
        make_room = full_disk(small_disk)
        for _ in range(1500):
            desk.offer(desk.trade(note=note))

        def is_full() -> bool:
            desk.pump()
            return cell(system, "journal", "disk_is_full") == 1

        wait_until(is_full, SECONDS, "no room for the next journal file")
        counts = []

        def no_answer_came() -> bool:
            """While the journal tried five times more; before that it fills the file that it has."""
            tries = cell(system, "journal", "disk_full")
            wait_until(lambda: cell(system, "journal", "disk_full") > tries + 5, SECONDS, "more tries")
            desk.pump()
            counts.append(len(list(desk.answered())))
            return counts[-1] == counts[-2] if len(counts) > 1 else False

        wait_until(no_answer_came, SECONDS, "the end of answers")
        assert counts[-1] < len(desk.sendings), "some have no answer"
        assert max(sequence for _, _, sequence in desk.answered()) <= Host.open(system.instance).durable_sequence
        make_room()
        desk.settle(120)
        told = sorted(sequence for _, code, sequence in desk.answered() if code == Code.ACCEPTED)
        assert len(told) == len(set(told)) == len(desk.sendings), "each was booked once"
        last = quiesce(system, desk)
        assert list(verify(system.paths.journal)) == []
        assert int(JournalView(system.paths.journal).records[last]["sequence"]) == last
        assert set(restarts(system).values()) == {0}, f"nobody died of it: {system.output()[-3000:]}"
        assert system.stop() == 0
        desk.close()


def test_a_clock_that_steps_back_and_forth(system: System, desk: Desk) -> None:
    clock = Path(system.settings["clock"])
    first = quiesce(system, desk)
    for step in (-3600, 7200, -86_400 * 400, 0):  # seconds; parked workers wake and go on all the same
        clock.write_text(str(step * NS_PER_SECOND))
        desk.trades(30)
        desk.settle()
    clock.unlink()
    last = quiesce(system, desk)
    recorded = JournalView(system.paths.journal).records["recorded_ns"][1 : last + 1]
    assert (np.diff(recorded) >= 0).all(), "an event is never recorded before the one in front of it"
    assert recorded[-1] - recorded[first - 1] > 3600 * NS_PER_SECOND, "the clocks of the workers are the one that stepped"
    assert list(verify(system.paths.journal)) == []


def test_a_journal_that_stops_for_ever_is_replaced(system: System, desk: Desk) -> None:
    before, journal = restarts(system), system.children()["journal"]
    os.kill(journal, signal.SIGSTOP)
    desk.trades(50)
    desk.settle()
    system.wait_whole()
    assert system.children()["journal"] != journal
    assert restarts(system) == {**before, "journal": before["journal"] + 1}
    assert "no heartbeat; it is killed worker=journal" in system.output()


def test_a_free_reader_that_stops_holds_nobody_back(system: System, desk: Desk) -> None:
    before = restarts(system)
    watcher = Watcher(system)
    try:
        desk.works()
        os.kill(watcher.process.pid, signal.SIGSTOP)
        ring = Host.open(system.instance).updates(0)
        start = ring.head
        for _ in range(12):
            desk.trades(400)
            desk.settle()
        assert ring.head > start, "it is written all the while"
        os.kill(watcher.process.pid, signal.SIGCONT)
        assert watcher.stop()["went_back"] == []
    finally:
        watcher.kill()
    assert restarts(system) == before


def garbage(rng: np.random.Generator, like: Any) -> Any:
    """EVENT[n]: random bytes, or a good group with some bytes changed, or a part of a group."""
    roll = rng.random()
    if roll < 0.3:
        return np.frombuffer(rng.bytes(EVENT.itemsize * int(rng.integers(1, 6))), EVENT).copy()
    spoilt = np.array(like, EVENT)
    octets = spoilt.view(np.uint8)
    for _ in range(int(rng.integers(1, 5))):
        octets[int(rng.integers(0, len(octets)))] = rng.integers(0, 256)
    if roll < 0.6:
        spoilt["kind"] = rng.integers(0, 20, len(spoilt))
    if roll > 0.9:
        spoilt["group_count"] = rng.integers(0, 5000)
    return spoilt


def test_garbage_from_one_producer_hurts_nobody_else(system: System, desk: Desk, rng: np.random.Generator) -> None:
    desk.works()
    before, capture = restarts(system), system.children()["capture"]
    other = Producer.open(system.instance, system.data_dir)
    requests, replies = other.intake.requests, other.intake.replies
    good = [desk.trade(trade_id="spoilt-1", note="n" * 300), desk.trade(trade_id="spoilt-2")]  # ids that no later trade can have
    for _ in range(40):
        for _ in range(25):
            other.requests.publish(garbage(rng, good[int(rng.integers(0, 2))]))
        other.waker.wake()
        other.answers()
        desk.works()
    for head in (2**62, -(2**62), 2**63 - 1, -(2**63), requests.head + 100_000, requests.head - 10):
        requests.control[0] = head
        desk.works()
    for words in (requests.control, replies.control):
        for _ in range(10):
            words[:] = rng.integers(-(2**63), 2**63 - 1, len(words))
            desk.works()
    assert system.children()["capture"] == capture, "capture has not even stumbled"
    requests.control[:] = rng.integers(-(2**63), 2**63 - 1, len(requests.control))
    number = other.number
    other.close()
    system.kill("capture")
    desk.works(after_a_death=True)
    wait_until(lambda: system.children().get("capture", capture) != capture, SECONDS, "another capture")
    system.wait_whole()
    assert restarts(system) == {**before, "capture": before["capture"] + 1}
    with Producer.open(system.instance, system.data_dir) as heir:
        assert heir.number == number, "the same ring, made anew"
        replies_to = heir.book([desk.trade()])
        assert [int(reply["code"]) for reply in replies_to] == [Code.ACCEPTED]
    quiesce(system, desk)
    assert cell(system, "shadow", "differences") == 0


def test_a_full_ring_is_told_and_goes_on(system: System, desk: Desk) -> None:
    desk.works()
    groups = [desk.trade() for _ in range(5000)]
    capture = system.children()["capture"]
    with Producer.open(system.instance, system.data_dir) as other:
        os.kill(capture, signal.SIGSTOP)
        sent = 0
        while other.send(groups[sent]) != NO_ROOM:
            sent += 1
        assert sent == other.intake.requests.capacity, "exactly what the ring holds"
        os.kill(capture, signal.SIGCONT)
        replies: dict[int, int] = {}

        def answered() -> bool:
            lost = other.lost_upto()
            assert lost < 0, "capture was not stopped for so long that it was taken for dead"
            replies.update({int(reply["ticket"]): int(reply["code"]) for reply in other.answers()})
            return len(replies) == sent

        wait_until(answered, SECONDS, "all answers")
        assert set(replies.values()) == {Code.ACCEPTED}
        assert [int(reply["code"]) for reply in other.book(groups[sent : sent + 100])] == [Code.ACCEPTED] * 100


def test_keys_leave_memory_and_still_are_known(system: System, desk: Desk) -> None:
    """A date's keys move to its file when later ones need the room; a date that fills the table alone is told BUSY, and others go on."""
    quiesce(system, desk)
    ours = desk.trade(day=130, trade_id="kept-for-long")
    with Producer.open(system.instance, system.data_dir) as other:
        (first,) = other.book([ours])
        assert first["code"] == Code.ACCEPTED
        codes = [int(reply["code"]) for reply in other.book([desk.trade(day=131) for _ in range(DEDUP_KEYS + 200)])]
        assert codes.count(Code.ACCEPTED) + codes.count(Code.BUSY) == len(codes)
        assert codes.count(Code.BUSY) > 100, "one date alone fills the table"
        assert "dedup_keys" in system.workers()["capture"].last_error, "and it is said what to set"
        assert (system.paths.keys / f"{DAY_0 + 130:06d}.keys.npy").exists(), "the older date went to its file"
        assert [int(reply["code"]) for reply in other.book([desk.trade(day=132)])] == [Code.ACCEPTED], "another date has room"
        again = other.book([ours, desk.trade(day=130, trade_id="kept-for-long", book="B")])
        assert [(int(reply["code"]), int(reply["sequence"])) for reply in again] == [
            (Code.DUPLICATE, int(first["sequence"])),
            (Code.IDEMPOTENCY_CONFLICT, int(first["sequence"])),
        ]
    desk.book(ours)
    desk.settle()
    system.kill("capture")
    desk.book(ours)
    desk.settle()
    assert {int(sending.answers[-1]["sequence"]) for sending in desk.sendings[-2:]} == {int(first["sequence"])}


def test_a_checkpoint_that_knows_more_than_a_dead_accumulator_has_said(tmp_path: Path, seed: int) -> None:
    """It dies over a batch that the shadow has saved meanwhile; its next life says all the same what the batch gave."""
    switch = "accumulator-0:before_matches:1"
    with running(tmp_path, "ahead") as system:
        system.start(**{VARIABLE: switch})
        desk = Desk(system, seed)
        desk.works()
        accumulator, place = system.children()["accumulator-0"], "accumulator-0"
        said = Host.open(system.instance).events.cursor(place)
        os.kill(accumulator, signal.SIGSTOP)
        for number in range(1100):
            desk.offer(desk.trade(side="BUY" if number % 2 else "SELL"))

        def is_ahead() -> bool:
            desk.pump()
            return any(int(path.stem) > said for path in checkpoints(system.paths.checkpoints))

        wait_until(is_ahead, SECONDS, "a checkpoint beyond what was said")
        assert Host.open(system.instance).events.cursor(place) == said
        os.kill(accumulator, signal.SIGCONT)
        desk.settle()
        assert points_hit(system.paths.run, switch) == {"accumulator-0:before_matches": 1}
        assert judge(system, desk)["matches"] == 550
        desk.close()
        assert system.stop() == 0


def refused_start(folder: Path, name: str = "fault") -> str:
    """What a start on that data directory says, which must fail and change no file of the journal."""
    with running(folder, name) as system:
        before = {path.name: path.read_bytes() for path in system.paths.journal.iterdir()}
        system.start(ready=False)
        assert system.process is not None
        assert system.process.wait(SECONDS) == 1
        assert {path.name: path.read_bytes() for path in system.paths.journal.iterdir()} == before, "nothing was changed"
        return system.output()


def test_starts_that_must_not_be(system: System, desk: Desk, tmp_path: Path) -> None:
    """A second supervisor; a flipped bit; a checkpoint that knows more than the journal. And one that must: all is still known."""
    desk.works()
    kept = desk.sendings[-1]
    second = System(system.data_dir, f"second{os.getpid()}")
    second.start(ready=False)
    assert second.process is not None and system.process is not None
    assert second.process.wait(SECONDS) == 1
    assert f"is in use by pid {system.process.pid}" in system.output(), "both write into one file here"
    desk.works()

    quiesce(system, desk)
    shutil.copytree(system.paths.journal, tmp_path / "old")
    desk.trades(10)
    desk.settle()
    desk.close()
    assert system.stop() == 0
    data = system.data_dir

    shutil.copytree(data / "journal", tmp_path / "flip" / "fault" / "journal")
    path = file_path(tmp_path / "flip" / "fault" / "journal", 0)
    raw = bytearray(path.read_bytes())
    raw[record_offset(20, RECORDS) + 100] ^= 4
    path.write_bytes(raw)
    said = refused_start(tmp_path / "flip")
    assert "record 20 is damaged" in said
    assert "restore the file from a copy" in said

    shutil.copytree(tmp_path / "old", tmp_path / "beyond" / "fault" / "journal")
    shutil.copytree(data / "checkpoints", tmp_path / "beyond" / "fault" / "checkpoints")
    assert "lost, or restored from an old copy" in refused_start(tmp_path / "beyond")

    system.start()
    desk.connect()
    first = int(kept.answers[0]["sequence"])
    desk.book(kept.group)
    desk.settle()
    assert (int(desk.sendings[-1].answers[-1]["code"]), int(desk.sendings[-1].answers[-1]["sequence"])) == (Code.DUPLICATE, first)
    desk.works()
    last = quiesce(system, desk)
    events = JournalView(system.paths.journal).records[1 : last + 1]
    keys = events[events["kind"] == Kind.TRADE][["key_hi", "key_lo", "discriminator"]].tolist()
    assert len(keys) == len(set(keys)), "no trade twice in all of this"
    assert system.stop() == 0
