"""A whole running system for the crash tests, a program that books random events into it, and the final judgement.

Owns: `System` (start, kill, stop), `Feeder` (sends, remembers every answer, sends again what a death left open), `Watcher` (another
process that looks at slots all the while) and `judge`, which holds what the system shows against the independent model folded over the
dumped journal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from pks.base.errors import Code
from pks.base.ids import key_of
from pks.client.producer import NO_ROOM, DoorClosed, NoFreeIntake, Producer
from pks.engine.booking.admit import Admitted
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.events import definition_event, definitions_of
from pks.engine.lots.state import KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.layouts.slots import POSITION_WORDS
from pks.layouts.state import KEY_WORDS
from pks.segments.journal_recovery import verify
from pks.segments.journal_view import JournalView
from pks.segments.shm import list_segments, retire
from pks.segments.wait import remove_semaphores
from pks.topology import Host, Paths
from pks.workers.dump import dump_events
from pks.workers.positions import Positions
from tests.conftest import wait_until
from tests.crash.programs import NOT_THERE
from tests.engine_compare import differences, our_matches, their_matches
from tests.engine_script import RandomDay
from tests.harness import Fold
from tests.oracle.model import Model

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # a deadline for a loaded machine, not a duration
COMPILE_SECONDS = 300.0  # the first start of a version compiles every kernel
OUTSTANDING_MAX = 1500
GONE = (*NOT_THERE, DoorClosed, NoFreeIntake)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)

SMALL = {
    "shm.sizes": "small",
    "shm.positions": "1024",
    "shm.instruments": "1024",
    "shm.books": "256",
    "shm.accounts": "256",
    "shm.matches": "4096",
    "journal.segment_records": "8192",
    "checkpoint_events": "1024",
    "park": "1",
    "edges": "none",
}


class System:
    """One data directory and the supervisor that runs on it, in a process of its own."""

    def __init__(self, data_dir: Path, instance: str, **settings: str) -> None:
        self.data_dir, self.instance = data_dir, instance
        self.settings = {**SMALL, **settings}
        self.paths = Paths(data_dir)
        self.output_file = data_dir / "output"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def shards(self) -> int:
        return int(self.settings.get("shards", "1"))

    def start(self, *, ready: bool = True, seconds: float = COMPILE_SECONDS, **environ: str) -> None:
        self.data_dir.mkdir(exist_ok=True)
        late = self.output_file.with_name("late kernels")
        options = [f"late={late}", *(f"{key}={value}" for key, value in self.settings.items())]
        command = [sys.executable, "-m", "tests.crash.programs", "run", str(self.data_dir), self.instance, *options]
        variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environ}
        with self.output_file.open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
        self.starts += 1
        if ready:
            self.wait_ready(seconds)

    def wait_ready(self, seconds: float = SECONDS) -> None:
        wait_until(lambda: self.state() == "READY", seconds, "READY")

    def state(self) -> str:
        assert self.process is not None, "it was started"
        assert self.process.poll() is None, f"the supervisor ended: {self.output()[-3000:]}"
        facts = self.run_file()
        return str(facts["state"]) if facts and facts["pid"] == self.process.pid else ""

    def run_file(self) -> dict[str, Any]:
        path = self.paths.run_file
        return json.loads(path.read_text()) if path.exists() else {}

    def output(self) -> str:
        return self.output_file.read_text()

    def log(self, worker: str) -> list[dict[str, Any]]:
        """Every line that a worker wrote in all its lives."""
        path = self.paths.log / f"{worker}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def children(self) -> dict[str, int]:
        """Name -> pid of every live process that the supervisor started."""
        assert self.process is not None, "it was started"
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if words and words[0].startswith("pks "):
                found[words[0].split()[1]] = child.pid
        return found

    def workers(self) -> dict[str, Any]:
        return {facts.name: facts for facts in Host.open(self.instance).control.workers()}

    def wait_whole(self) -> None:
        """Every worker is there and ready."""

        def whole() -> bool:
            children, workers = self.children(), self.workers()
            return "zygote" in children and all(w.state.name == "READY" and children.get(name) == w.pid for name, w in workers.items())

        wait_until(whole, SECONDS, "all workers ready")

    def kill(self, who: str) -> None:
        """SIGKILL for a worker, the zygote, the supervisor ("supervisor") or every process at once ("all")."""
        assert self.process is not None, "it was started"
        children = self.children()
        if who in ("supervisor", "all"):
            for pid in [self.process.pid, *(children.values() if who == "all" else ())]:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
            wait_until(lambda: not any(psutil.pid_exists(pid) for pid in children.values()), SECONDS, "the end of the workers")
        elif who in children:
            os.kill(children[who], signal.SIGKILL)

    def late_kernels(self) -> list[str]:
        """Kernels that workers compiled or loaded themselves, in all lives: those that no `warm` calls."""
        path = self.output_file.with_name("late kernels")
        return sorted(set(path.read_text().splitlines())) if path.exists() else []

    def stop(self) -> int:
        assert self.process is not None, "it was started"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def clean(self) -> None:
        """End what is left of it, and remove its shared memory."""
        if self.process is not None and self.process.poll() is None:
            self.kill("all")
        for facts in list_segments(self.instance):
            retire(facts.name)
        remove_semaphores(64, self.instance)
        Path(f"/dev/shm/pks-lock.{self.instance}").unlink(missing_ok=True)


def a_system(folder: Path, name: str, **settings: str) -> Iterator[System]:
    """For fixtures: a system that is not started yet, and that is gone afterwards."""
    made = System(folder / name, f"{name}{os.getpid()}", **settings)
    try:
        yield made
    finally:
        made.clean()


running = contextmanager(a_system)
"""The same for a `with` statement."""


# --- booking ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Sending:
    """One group and every answer to it."""

    number: int
    group: Any
    answers: list[Any] = field(default_factory=list)  # REPLY, in the order in which they came
    sent_count: int = 0

    @property
    def kind(self) -> Kind:
        return Kind(int(self.group[0]["kind"]))


class Feeder:
    """Books groups as a careful program does: it sends again whatever a death left without an answer.

    It has the words of tests.harness.Core that RandomDay uses.
    """

    def __init__(self, system: System, seed: int) -> None:
        self.system, self.chance = system, random.Random(seed)
        self.sendings: list[Sending] = []
        self.open: dict[int, Sending] = {}  # by ticket of the present producer
        self.again: deque[Sending] = deque()
        self.booking = SimpleNamespace(catalogue=Catalogue())
        self.view: JournalView | None = None
        self.producer: Producer | None = None
        self.life = f"{seed}"
        self.sequence = 0  # RandomDay looks whether it moves; here nothing is booked at once
        self.resent_count = self.busy_count = 0
        self.connect()

    # the connection

    def connect(self) -> None:
        """Claim a ring of the running system; what the last one left open is sent again."""
        self.again.extend(self.open.values())
        self.open.clear()
        if self.producer is not None:
            self.producer.close()
            self.producer = None

        def claimed() -> bool:
            try:
                self.producer = Producer.open(self.system.instance, self.system.data_dir)
            except GONE:
                return False
            return self.producer.intake.is_open

        wait_until(claimed, COMPILE_SECONDS, "an intake ring")
        self.view = JournalView(self.system.paths.journal)

    def pump(self) -> int:
        """Take answers, send again what must be; how many answers came."""
        assert self.producer is not None, "connected"
        lost = self.producer.lost_upto()
        replies = self.producer.answers()
        for reply in replies:
            sending = self.open.pop(int(reply["ticket"]), None)
            if sending is None:
                continue
            if int(reply["code"]) in (Code.BUSY, Code.SHUTTING_DOWN):
                self.busy_count += 1
                self.again.append(sending)
                continue
            sending.answers.append(reply)
        for ticket in [ticket for ticket in self.open if ticket <= lost]:
            self.again.append(self.open.pop(ticket))
        while self.again and len(self.open) < OUTSTANDING_MAX:
            self.resent_count += 1
            if not self._send(self.again[0]):
                break
            self.again.popleft()
        return len(replies)

    def _send(self, sending: Sending) -> bool:
        assert self.producer is not None, "connected"
        ticket = self.producer.send(sending.group)
        if ticket == NO_ROOM:
            return False
        self.open[ticket] = sending
        sending.sent_count += 1
        return True

    def settle(self, seconds: float = SECONDS) -> None:
        """Until everything is answered."""

        def settled() -> bool:
            self.pump()
            return not self.open and not self.again

        wait_until(settled, seconds, "every answer")

    # what RandomDay asks of a core

    def book(self, group: Any) -> Admitted:
        """Send a group; the answer is for later, except for reference data, which all that follows may need."""
        group = np.array(group, EVENT)
        head = group[0]
        if head["kind"] in CORRECTIONS and not (head["second_key_hi"] or head["second_key_lo"]):
            hi, lo = key_of("CRASH", f"{self.life}/{len(self.sendings)}", 0)
            head["second_key_hi"], head["second_key_lo"] = hi & (2**64 - 1), lo & (2**64 - 1)
        sending = Sending(len(self.sendings), group)
        self.sendings.append(sending)
        self._send_when_room(sending)
        if sending.kind == Kind.REFDATA:
            self.settle()
            self.learn()
            return Admitted(int(sending.answers[-1]["code"]), None, int(sending.answers[-1]["sequence"]))
        return Admitted(int(Code.ACCEPTED))

    def _send_when_room(self, sending: Sending) -> None:
        def sent() -> bool:
            self.pump()
            return len(self.open) < OUTSTANDING_MAX and not self.again and self._send(sending)

        wait_until(sent, SECONDS, "room in the ring")

    def offer(self, group: Any) -> None:
        """Send a group as soon as there is room, without waiting for it."""
        sending = Sending(len(self.sendings), np.array(group, EVENT))
        self.sendings.append(sending)
        self.again.append(sending)

    def define(self, definition: Any) -> int:
        outcome = self.book(definition_event(definition))
        assert outcome.code in (Code.ACCEPTED, Code.DUPLICATE), Code(outcome.code).name
        return outcome.sequence

    def learn(self) -> None:
        """Take the reference data of the running system into the catalogue."""
        assert self.producer is not None and self.view is not None, "connected"
        catalogue, rows = self.booking.catalogue, self.producer.host.refdata.snapshot()
        self.view.refresh()  # behind the rows: the journal may have another file by now
        for subject, row_id, sequence, definition in definitions_of(self.view.records, rows):
            if catalogue.get(subject, row_id) is None or catalogue.sequence_of(subject, row_id) < sequence:
                catalogue.apply(subject, row_id, definition, sequence)

    def repeat(self, count: int) -> None:
        """Send some answered groups once more; `judge` compares the answers."""
        answered = [sending for sending in self.sendings if sending.answers and sending.kind != Kind.REFDATA]
        for sending in self.chance.sample(answered, min(count, len(answered))):
            self._send_when_room(sending)

    def answered(self) -> Iterator[tuple[Sending, int, int]]:
        """(sending, code, sequence) of every answer that names an event."""
        for sending in self.sendings:
            for reply in sending.answers:
                if int(reply["sequence"]):
                    yield sending, int(reply["code"]), int(reply["sequence"])

    def close(self) -> None:
        if self.producer is not None:
            self.producer.close()


class LiveDay(RandomDay):
    """A random day of a running system. No finer scales: a repeat is made with the scales that it was first made with."""

    def __init__(self, seed: int, feeder: Feeder) -> None:
        self._feeder = feeder
        super().__init__(seed, feeder.system.data_dir / "core that is not used")

    @property
    def core(self) -> Any:
        """What RandomDay books into."""
        return self._feeder

    @core.setter
    def core(self, made: Any) -> None:
        """The core in this process that RandomDay makes is not wanted."""

    def trade(self) -> None:
        """One trade, which waits for nothing."""
        self._trade()

    def _rescale(self) -> None:
        self._trade()


# --- the watcher -----------------------------------------------------------------------------------------------------------------


class Watcher:
    """A process that reads every slot again and again, and finds any that steps back within one life of the segments."""

    def __init__(self, system: System) -> None:
        self.file = system.data_dir / "watched"
        self.file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.crash.programs", "watch", system.instance, str(self.file)]
        with (system.data_dir / "watcher output").open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        wait_until(self.file.exists, SECONDS, "the watcher")

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        ended = self.process.wait(SECONDS)
        assert ended == 0, f"the watcher ends in order: {self.file.with_name('watcher output').read_text()[-2000:]}"
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# --- the judgement ---------------------------------------------------------------------------------------------------------------


class FoldByShard(Fold):
    """A fold that keeps apart what each shard said."""

    def __init__(self, records: Any, shards: int) -> None:
        super().__init__(records, shards)
        self.matches_of: list[list[bytes]] = [[] for _ in range(shards)]
        self.verdicts_of: list[list[bytes]] = [[] for _ in range(shards)]

    def _taken(self, position: Positions, out: Results) -> None:
        self.matches_of[position.shard.index].append(out.matches[: out.counts[MATCHES]].tobytes())
        self.verdicts_of[position.shard.index].append(out.verdicts[: out.counts[VERDICTS]].tobytes())
        super()._taken(position, out)


def quiesce(system: System, feeder: Feeder) -> int:
    """Until nothing moves any more: everything answered, durable, applied, and looked at by the shadow. The last sequence."""
    feeder.settle()
    host = Host.open(system.instance, system.data_dir)

    def still() -> bool:
        head = host.events.head
        workers = {facts.name: facts for facts in host.control.workers()}
        applied = min(host.events.cursor(f"accumulator-{k}") for k in range(system.shards))
        owed = any(intake.requests.head != intake.requests.cursor("capture") for intake in (host.reentry(k) for k in range(system.shards)))
        shadow = workers["shadow"]
        return (
            not owed
            and host.durable_sequence == head == applied
            and shadow.ready
            and shadow.cursor == head
            and _last_kind(host) == Kind.TICK
        )

    wait_until(still, SECONDS, "all durable, applied and compared")
    return host.events.head


def _last_kind(host: Host) -> int:
    ring = host.events
    return int(ring.records.view(EVENT).reshape(-1)[ring.head & (ring.capacity - 1)]["kind"])


def judge(system: System, feeder: Feeder) -> dict[str, int]:
    """Hold everything that the quiet system shows against the model, and the journal against the answers. Counts, for a look."""
    last = quiesce(system, feeder)
    host = Host.open(system.instance, system.data_dir)
    view = JournalView(system.paths.journal)
    feeder.learn()
    catalogue = feeder.booking.catalogue
    assert list(verify(system.paths.journal)) == [], "the journal is sound"
    assert np.array_equal(view.records["sequence"][1 : last + 1], np.arange(1, last + 1)), "no sequence is missing or doubled"
    model = Model()
    for event in dump_events(view.records, -1, 1, last, catalogue):
        model.apply(event)
    fold = FoldByShard(view.records, system.shards)
    fold.apply(1, last)
    snapshot = model.snapshot()
    found = [line for line in differences(fold, catalogue, snapshot, model.refused) if not line.startswith("matches ")]
    assert found == [], "\n".join(found[:20])
    ours, theirs = our_matches(fold.matches, catalogue), their_matches(snapshot)
    assert _unordered(ours) == _unordered(theirs), "the match sets are the model's"
    slots = _judge_slots(host, fold)
    _judge_streams(system, host, fold)
    _judge_answers(view, feeder, model)
    _judge_transfers(model)
    cells = {(cell.owner, cell.name): cell.value for cell in host.control.read_cells()}
    shadow = system.workers()["shadow"].owner
    assert cells[shadow, "differences"] == 0, "the shadow saw no difference"
    matches = sum(len(part) for parts in fold.matches_of for part in parts) // MATCH.itemsize
    return {"events": last, "slots": slots, "matches": matches, "refused": len(model.refused), "resent": feeder.resent_count}


def judge_fold(system: System, feeder: Feeder) -> int:
    """As `judge`, by a second fold instead of the model, which is slow with a day of more than some thousand events; the last event."""
    last = quiesce(system, feeder)
    host = Host.open(system.instance, system.data_dir)
    view = JournalView(system.paths.journal)
    assert list(verify(system.paths.journal)) == [], "the journal is sound"
    assert np.array_equal(view.records["sequence"][1 : last + 1], np.arange(1, last + 1)), "no sequence is missing or doubled"
    fold = FoldByShard(view.records, system.shards)
    fold.apply(1, last)
    _judge_slots(host, fold)
    _judge_streams(system, host, fold)
    _judge_keys(view.records, last)
    for sending, code, sequence in feeder.answered():
        if sending.kind not in (Kind.REFDATA, Kind.PERIOD_LOCK):
            assert view.records[sequence]["trade_id"] == sending.group[0]["trade_id"], f"event {sequence} is not {sending.group[0]}"
        if code == Code.ACCEPTED:
            assert sequence not in fold.verdicts, f"event {sequence} was accepted, the fold refused it"
    assert all(sending.answers for sending in feeder.sendings), "everything was answered"
    cells = {(cell.owner, cell.name): cell.value for cell in host.control.read_cells()}
    assert cells[system.workers()["shadow"].owner, "differences"] == 0, "the shadow saw no difference"
    return last


def _unordered(matches: dict[Any, Any]) -> dict[Any, Any]:
    """Sets as such: parts of one lot that came by one transfer at one price have no order that a rule gives."""
    return {name: sorted(rows) for name, rows in matches.items()}


def _judge_slots(host: Host, fold: Fold) -> int:
    """Every live slot, word by word, is the key that a fold of the journal gives (which was held against the model before)."""
    count = 0
    for position in fold.positions:
        state = position.shard.state
        words = state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        for k in range(int(state.meta[KEYS_COUNT])):
            key = state.keys[k]
            row = host.positions.find((int(key["book_id"]), int(key["instrument_id"])))
            if row is None:
                assert not key["last_sequence"], f"no slot for {int(key['book_id'])}, {int(key['instrument_id'])}"
                continue
            live = host.positions.read(row)
            same = np.array_equal(np.array([live]).view(np.int64)[1:], words[k, 1:POSITION_WORDS])
            assert same, f"slot {row}: {live} is not {key}"
            account = int(key["accounts"])
            while account >= 0:
                found = host.accounts.find((row, int(state.accounts[account]["account_id"])))
                assert found is not None, f"slot {row}: no quantity of account {state.accounts[account]}"
                assert host.accounts.read(found)["qty_raw"] == state.accounts[account]["qty_raw"], f"slot {row}: {state.accounts[account]}"
                account = int(state.accounts[account]["next"])
            count += 1
    assert count == len(host.positions.rows()), "no slot is there twice, none for a key that does not exist"
    return count


def _judge_streams(system: System, host: Host, fold: FoldByShard) -> None:
    """Each stream of this run is exactly the end of what its shard says from the first event on: nothing twice, nothing left out."""
    for k in range(system.shards):
        cells = {cell.name: cell.value for cell in host.control.read_cells() if cell.owner == system.workers()[f"accumulator-{k}"].owner}
        since = cells["streams_from"] - 1
        for name, parts in (("matches", fold.matches_of[k]), ("verdicts", fold.verdicts_of[k])):
            reader = getattr(host, name)(k).reader()
            held = []
            while len(records := reader.read(4096)):
                held.append(records.tobytes())
            wanted, live = b"".join(parts), b"".join(held)
            assert wanted.endswith(live), f"{name}-{k} is not what the journal gives"
            before = np.frombuffer(wanted[: len(wanted) - len(live)], reader.ring.dtype)
            late = before["cause" if name == "matches" else "sequence"] > since
            assert not late.any(), f"{name}-{k}: {int(late.sum())} records of events behind {since} are missing"


def _judge_answers(view: JournalView, feeder: Feeder, model: Model) -> None:
    """What was acknowledged is there, once, with the verdict that was told; repeats got the first answer; the order is that of sending."""
    records = view.records
    last = model.sequence
    for sending, code, sequence in feeder.answered():
        assert sequence <= last, f"answered with event {sequence}, the journal ends at {last}"
        if sending.kind in (Kind.REFDATA, Kind.PERIOD_LOCK):
            continue
        assert records[sequence]["trade_id"] == sending.group[0]["trade_id"], f"event {sequence} is not {sending.group[0]}"
        if code not in (Code.ACCEPTED, Code.DUPLICATE, Code.IDEMPOTENCY_CONFLICT):
            assert model.refused.get(sequence) == Code(code).name, (
                f"event {sequence}: told {Code(code).name}, model {model.refused.get(sequence)}"
            )
        elif code == Code.ACCEPTED:
            assert sequence not in model.refused, f"event {sequence} was accepted, the model says {model.refused[sequence]}"
    for sending in feeder.sendings:
        assert sending.answers, f"no answer to {sending.group[0]}"
        told = {int(reply["sequence"]) for reply in sending.answers if int(reply["sequence"])}
        if sending.kind not in (*CORRECTIONS, Kind.PERIOD_LOCK):  # a lock has no key, and may be there twice
            assert len(told) <= 1, f"{sending.group[0]} was answered with events {told}"
    _judge_keys(records, last)
    at_once = (
        sending.answers[0] for sending in feeder.sendings if sending.kind not in CORRECTIONS and len(sending.answers) == sending.sent_count
    )
    in_order = [int(reply["sequence"]) for reply in at_once if int(reply["code"]) == Code.ACCEPTED]
    assert in_order == sorted(in_order), "what was accepted at once has the order in which it was sent"


def _judge_keys(records: Any, last: int) -> None:
    """No key was booked twice."""
    events = records[1 : last + 1]
    keyed = np.isin(events["kind"], [int(kind) for kind in (Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER, Kind.ACTION, Kind.FIXING)])
    keyed |= (events["kind"] == Kind.TRADE) & (events["original"] == 0)
    ids = events["trade_id"][keyed].tolist()
    assert len(ids) == len(set(ids)), "a trade was booked twice"
    without = (int(Kind.DETAIL), int(Kind.ALLOCATION))  # the one has text there, the other names its block
    commands = events[(events["second_key_lo"] != 0) & ~np.isin(events["kind"], without)]
    twice = [key for key, count in Counter(commands[["second_key_hi", "second_key_lo"]].tolist()).items() if count > 1]
    doubled = commands[np.isin(commands["second_key_lo"], [low for _, low in twice])]
    assert not twice, f"a correction was booked twice: {doubled}"


def _judge_transfers(model: Model) -> None:
    """No changed lots are still on their way: what each receiver was handed is what its giver gives now."""
    for sequence, handed in model.handed.items():
        entry = model.entries.get(sequence)
        if entry is None or entry.cancelled:
            continue
        given = model.states[entry.keys[0]].given.get(sequence, [])
        assert handed == given, f"transfer {sequence}: handed {handed}, given {given}"
