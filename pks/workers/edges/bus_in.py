"""What comes in on NATS: trades and lifecycle events of other programs, fills of an execution platform; booked here, then acknowledged.

One durable consumer for all three subjects, so that a correction is read behind its trade. A message is acknowledged when every trade of it
has its final answer, which means that it is durable; what was refused has then become a dead letter. Delivered twice, a message finds its
trades booked: by their ids, and corrections by the system and sequence at which they were booked first. Our own messages, and our own
corrections that come back from another system, are acknowledged and skipped: no loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import nats.errors
from google.protobuf.message import DecodeError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from pks.base.errors import CODES, Code, Refused
from pks.base.ids import key_of
from pks.edges.files.rows import TradeRow
from pks.edges.nats.connection import Connection
from pks.edges.nats.dead import TRANSIENT, Class, Fault, Where, bury, class_of
from pks.edges.nats.origin import root_key
from pks.edges.nats.streams import ADVISORIES, BOOKING, CANONICAL, HEADER_ORIGIN, LIFECYCLE_APPLIED, MAX_DELIVERIES, TRADE_BOOKED
from pks.engine.booking.border import joined
from pks.layouts.codes import Kind
from pks.layouts.event import FIELD_NAME, FIELD_WORDS
from pks.proto.codec import trade_words
from pks.proto.pks.v1 import booking_pb2
from pks.workers.edges.intake import NoFreeRing, OwnIntake
from pks.workers.edges.reference import Reference
from pks.workers.runtime import Context

SUBJECTS = (TRADE_BOOKED, LIFECYCLE_APPLIED, CANONICAL)

ACK_SECONDS = 30.0
"""Without an answer or a sign of progress from us the server delivers a message again."""

PROGRESS_SECONDS = 10.0
DELIVERIES_MAX = 20
FAILURES_MAX = 3
AGAIN_SECONDS_MIN, AGAIN_SECONDS_MAX = 1.0, 60.0
"""Before a message that met something passing is delivered again; doubled each time."""

FETCH_MESSAGES, FETCH_SECONDS, QUIET_FETCH_SECONDS = 64, 1.0, 5.0
"""A fetch waits so long for messages: short while answers are owed, which may fail."""

UNDER_WAY_MAX = 256
"""Messages that may wait for their answers at once."""

CLAIM_SECONDS = 1.0
RESET_SECONDS = 2.0
CANONICAL_SOURCE = "PD"
"""Source of the fills of the execution platform that name none."""

CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)
_WORD = (1 << 64) - 1


class Item(NamedTuple):
    """One trade or correction of a message."""

    place: int  # in the message
    row: Any  # TradeRow
    own_key: tuple[int, int]  # of a correction: where it was booked first, or where it stands in the stream
    is_root: bool  # it was booked first by a PKS, which says where


class Sent(NamedTuple):
    """A group that was sent: the items that it books, and its answer to come."""

    items: list[Item]
    answer: asyncio.Future[Any]
    is_keyed: bool  # a correction whose key we made of where it was booked first: another content under it is the same thing


class Malformed(Exception):
    """A message that is none of ours."""


class BusIn:
    """Takes messages, books them, answers them."""

    def __init__(self, context: Context, connection: Connection, origin: str, failures: dict[int, int]) -> None:
        """failures: stream sequence -> how often taking that message has failed; kept over connections."""
        self.failures = failures
        self.context, self.connection, self.origin = context, connection, origin
        self.consumer = f"pks-{origin}"
        self.created = ""
        self.reference = Reference(context)
        self.intake: OwnIntake | None = None
        self.under_way: set[asyncio.Task[None]] = set()
        cells = context.cells
        self.booked, self.repeated = cells.counter("bus_booked"), cells.counter("bus_duplicates")
        self.skipped, self.buried, self.delayed = cells.counter("bus_own"), cells.counter("bus_dead"), cells.counter("bus_delayed")

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        self.intake = await self._claimed()
        answers = asyncio.get_running_loop().create_task(self.intake.run())
        try:
            await self.reference.learn()
            reader = await self._reader()
            while True:
                self._check(answers)
                if not self.intake.is_open or len(self.under_way) >= UNDER_WAY_MAX:
                    await asyncio.sleep(0.01)
                    continue
                for message in await _fetch(reader, FETCH_MESSAGES, FETCH_SECONDS if self.under_way else QUIET_FETCH_SECONDS):
                    await self._try(message)
        finally:
            for task in (answers, *self.under_way):
                task.cancel()
            await asyncio.gather(answers, *self.under_way, return_exceptions=True)
            self.intake.close()

    def _check(self, answers: asyncio.Task[None]) -> None:
        """Raise what a task raised."""
        for task in [answers, *self.under_way]:
            if task.done():
                self.under_way.discard(task)
                task.result()

    async def _claimed(self) -> OwnIntake:
        said = False
        while True:
            try:
                return OwnIntake(self.context)
            except NoFreeRing as error:
                if not said:
                    self.context.log.warning("nothing is taken from NATS", reason=str(error))
                    said = True
                await asyncio.sleep(CLAIM_SECONDS)

    async def _reader(self) -> Any:
        stream = self.connection.stream
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_SECONDS,
            max_deliver=DELIVERIES_MAX,
            max_ack_pending=4 * UNDER_WAY_MAX,
            filter_subjects=list(SUBJECTS),
        )
        self.created = str((await stream.stream_info(BOOKING.name)).created)
        reader = await stream.pull_subscribe(SUBJECTS[0], durable=self.consumer, stream=BOOKING.name, config=config)
        if (await reader.consumer_info()).num_ack_pending:
            try:
                # What an earlier life took and did not acknowledge comes at once and in its order, before what is younger.
                await stream.reset_consumer(BOOKING.name, self.consumer, timeout=RESET_SECONDS)
            except (APIError, nats.errors.TimeoutError) as error:
                self.context.log.info("the server is older than 2.14: what is owed to us comes when it comes", error=str(error))
        return reader

    # one message

    async def _try(self, message: Any) -> None:
        """Take a message, unless that has failed again and again: then it is a dead letter of class POISON."""
        where = _where(message)
        failures = self.failures.get(where.sequence, 0)
        if failures >= FAILURES_MAX:
            fault = Fault(Class.POISON, "", "", "", f"ended the connection {failures} times: a mistake of ours, see the log of bus")
            await bury(self.connection.stream, where, fault, message.data, dict(message.headers or {}))
            self.buried.add()
            await message.ack()
        else:
            self.failures[where.sequence] = failures + 1
            await self._take(message)
        self.failures.pop(where.sequence, None)

    async def _take(self, message: Any) -> None:
        """Understand a message and send what is in it, in order; answers are waited for beside."""
        headers = dict(message.headers or {})
        where = _where(message)
        if headers.get(HEADER_ORIGIN) == self.origin:
            self.skipped.add()
            await message.ack()
            return
        sent: list[Sent] = []
        faults: list[Fault] = []
        try:
            items = list(self._items(message.subject, message.data, headers, where.sequence, faults))
        except Malformed as error:
            faults.append(Fault(Class.MALFORMED, Code.BAD_ENCODING.name, "", "", str(error)))
            items = []
        for block in _blocks(items):
            await self._send_block(block, sent, faults)
        loop = asyncio.get_running_loop()
        self.under_way.add(loop.create_task(self._answer(message, where, headers, sent, faults)))

    def _items(self, subject: str, data: bytes, headers: dict[str, str], sequence: int, faults: list[Fault]) -> Iterator[Item]:
        """What a message says, without what is our own. Raises Malformed."""
        origin = headers.get(HEADER_ORIGIN, "")
        if subject == LIFECYCLE_APPLIED:
            for place, event in enumerate(_parsed(booking_pb2.LifecycleEventApplied, data).events):
                root = event.root or (f"{origin}:{event.trade.sequence}" if origin else f"{self.created}/{sequence}/{place}")
                if event.derived or root.partition(":")[0] == self.origin:
                    self.skipped.add()
                    continue
                if (row := _row(event.trade, place, event.changed, "", faults)) is not None:
                    yield Item(place, row, _key_of_root(root), bool(event.root or origin))
            return
        default = CANONICAL_SOURCE if subject == CANONICAL else ""
        for place, trade in enumerate(_parsed(booking_pb2.TradeBooked, data).trades):
            if (row := _row(trade, place, (), default, faults)) is not None:
                yield Item(place, row, _key_of_root(f"{self.created}/{sequence}/{place}"), False)

    async def _send_block(self, block: list[Item], sent: list[Sent], faults: list[Fault]) -> None:
        """Send one row, or the children of one block as one group."""
        groups = []
        for item in block:
            try:
                groups.append(await self._group_of(item))
            except Refused as error:
                row = item.row
                faults.append(
                    Fault(class_of(error.code), error.code.name, error.field, str(error.value), error.reason, item.place, row.trade_id)
                )
        if len(groups) < len(block):
            for item in block if groups else ():
                if all(fault.place != item.place for fault in faults):
                    faults.append(_fault(item, Code.GROUP_REFUSED, "parent_id", item.row.parent_id))
            return
        group = groups[0] if len(groups) == 1 else joined(groups)
        assert self.intake is not None, "claimed"
        own = int(group[0]["second_key_hi"]), int(group[0]["second_key_lo"])
        keyed = int(group[0]["kind"]) in CORRECTIONS and own == block[0].own_key
        sent.append(Sent(block, await self.intake.send(group), keyed))

    async def _group_of(self, item: Item) -> Any:
        """The group of a row. Raises Refused."""
        assert self.intake is not None, "claimed"
        group = await self.reference.group_of(item.row, self.intake)
        head = group[0]
        if int(head["kind"]) in CORRECTIONS and (item.is_root or not (head["second_key_hi"] or head["second_key_lo"])):
            head["second_key_hi"], head["second_key_lo"] = item.own_key
        return group

    # answers

    async def _answer(self, message: Any, where: Where, headers: dict[str, str], sent: list[Sent], faults: list[Fault]) -> None:
        """When every answer is there: dead letters, then the acknowledgement; or another try later."""
        waiting = {one.answer for one in sent}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=PROGRESS_SECONDS)
            if waiting:
                await message.in_progress()
        again = any(fault.kind is Class.TRANSIENT for fault in faults)
        for one in sent:
            reply = one.answer.result()
            code = Code(int(reply["code"]))
            if code is Code.ACCEPTED:
                self.booked.add(len(one.items))
            elif code is Code.DUPLICATE or (code is Code.IDEMPOTENCY_CONFLICT and one.is_keyed):
                self.repeated.add(len(one.items))
            elif code in TRANSIENT:
                again = True
            else:
                field = FIELD_NAME.get(int(reply["field"]), "")
                faults += [_fault(item, code, FIELD_WORDS.get(field, field)) for item in one.items]
        if again:
            self.delayed.add()
            await self.reference.learn()
            await message.nak(delay=min(AGAIN_SECONDS_MAX, AGAIN_SECONDS_MIN * 2 ** min(where.deliveries, 10)))
            return
        for fault in faults:
            await bury(self.connection.stream, where, fault, message.data, headers)
            self.buried.add()
        await message.ack()


class Reaper:
    """Messages that were delivered as often as they may be: dead letters of class POISON."""

    def __init__(self, connection: Connection, consumer: str) -> None:
        self.connection, self.consumer = connection, consumer

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        stream = self.connection.stream
        subject = f"{MAX_DELIVERIES}.{BOOKING.name}.{self.consumer}"
        reader = await stream.pull_subscribe(subject, durable=f"{self.consumer}-reaper", stream=ADVISORIES.name)
        while True:
            for advisory in await _fetch(reader, FETCH_MESSAGES, QUIET_FETCH_SECONDS):
                facts = _advisory(advisory.data)
                try:
                    found = await stream.get_msg(BOOKING.name, facts["stream_seq"])
                except NotFoundError:
                    await advisory.ack()  # retention was quicker
                    continue
                where = Where(found.subject or "", BOOKING.name, facts["stream_seq"], self.consumer, facts["deliveries"])
                fault = Fault(Class.POISON, "", "", "", f"delivered {facts['deliveries']} times and not dealt with")
                await bury(stream, where, fault, found.data or b"", found.headers or {})
                await advisory.ack()


def _advisory(data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.json.decode(data)
    return facts


async def _fetch(reader: Any, most: int, seconds: float) -> list[Any]:
    try:
        return list(await reader.fetch(most, timeout=seconds))
    except (TimeoutError, nats.errors.TimeoutError):
        return []


def _where(message: Any) -> Where:
    facts = message.metadata
    return Where(message.subject, facts.stream, facts.sequence.stream, facts.consumer, facts.num_delivered)


def _parsed(kind: Any, data: bytes) -> Any:
    """A message of this kind with something in it. Raises Malformed."""
    try:
        parsed = kind.FromString(data)
    except DecodeError as error:
        raise Malformed(f"not a {kind.DESCRIPTOR.full_name}: {error}") from None
    if not (parsed.events if kind is booking_pb2.LifecycleEventApplied else parsed.trades):
        raise Malformed(f"a {kind.DESCRIPTOR.full_name} without anything in it")
    return parsed


def _row(trade: Any, place: int, changed: Any, source: str, faults: list[Fault]) -> Any:
    """The row of a Trade; None, and a fault, where a time is none."""
    try:
        words = trade_words(trade, changed)
    except (ValueError, OverflowError):
        faults.append(
            Fault(Class.MALFORMED, Code.BAD_TIME.name, "trade_time", str(trade.trade_time_ns), CODES[Code.BAD_TIME], place, trade.trade_id)
        )
        return None
    words.setdefault("source", source)
    return msgspec.convert({"line": place + 1, "row": place + 1, **words}, TradeRow)


def _blocks(items: list[Item]) -> Iterator[list[Item]]:
    """Runs of children of one block; everything else alone."""
    block: list[Item] = []
    for item in items:
        if block and not (item.row.parent_id and item.row.parent_id == block[0].row.parent_id):
            yield block
            block = []
        block.append(item)
    if block:
        yield block


def _key_of_root(root: str) -> tuple[int, int]:
    """The own key of a correction: readable where PKS booked it first, else a hash of its place in the stream."""
    origin, _, sequence = root.partition(":")
    if sequence.isdecimal():
        try:
            return root_key(origin, int(sequence))
        except ValueError:
            pass  # another program's words: hashed below
    hi, lo = key_of("NATS", root[-200:], 0)
    return hi & _WORD, lo & _WORD


def _fault(item: Item, code: Code, field: str, value: str = "") -> Fault:
    shown = value or str(getattr(item.row, field, "") or item.row.trade_id)
    return Fault(class_of(code), code.name, field or "trade_id", shown, CODES[code], item.place, item.row.trade_id)
